"""Errors of the user's code on clients: what counts, who is given up, whether enough are left."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from lockstep_api.sessions import ClientFailure
from lockstep_workers.cloud.journal import Journal
from lockstep_workers.cloud.metrics import CloudMetrics
from lockstep_workers.cloud.store import Store
from lockstep_workers.learning.constants import unpack
from lockstep_workers.learning.troubles import MOST_FAILURES, Troubles, too_few


def failure(client: str, run: int, round_number: int) -> ClientFailure:
    """An error in a round of this run of a client."""
    return ClientFailure(
        client=client, incarnation=str(run), round=round_number, message=f"raised in {round_number}"
    )


def test_a_client_is_given_up_after_three_errors() -> None:
    troubles = Troubles()
    for number in (1, 5):
        assert troubles.add(failure("a", 1, number), waited_for=True)
    assert not troubles.is_given_up("a")
    assert troubles.account() is None
    assert troubles.add(failure("a", 2, 0), waited_for=False)
    assert troubles.is_given_up("a")
    assert troubles.given_up() == {"a": "raised in 0"}
    assert troubles.account() == (
        f"given up after {MOST_FAILURES} errors of the user's code: client a: raised in 0"
    )
    assert not troubles.add(failure("a", 3, 0), waited_for=False), "there is no fourth"


def test_an_error_that_is_told_again_counts_once() -> None:
    troubles = Troubles()
    assert troubles.add(failure("a", 1, 4), waited_for=True)
    assert not troubles.add(failure("a", 1, 4), waited_for=False)
    assert troubles.add(failure("a", 1, 4), waited_for=True), "the round was played again"
    assert troubles.add(failure("b", 1, 4), waited_for=False)
    assert {client: len(told) for client, told in troubles.told.items()} == {"a": 2, "b": 1}


def test_people_are_told_of_each_error_and_what_comes_of_it() -> None:
    troubles = Troubles()
    for number in (1, 2, 3):
        troubles.add(failure("a", 1, number), waited_for=True)
    assert [line.rpartition("; ")[2] for line in troubles.news] == [
        "it is in the next round again, or its pod starts again)",
        "it is in the next round again, or its pod starts again)",
        "it is given up)",
    ]
    assert "client a: raised in 2 (error 2 of 3; " in troubles.news[1]


@pytest.mark.parametrize(
    ("clients", "given_up", "quorum", "message"),
    [
        (2, 0, None, None),
        (2, 1, None, "1 of 2 clients are left, and participation.quorum is not set, so all"),
        (3, 1, 2, None),
        (3, 2, 2, "1 of 3 clients are left, and participation.quorum is 2"),
        (1, 1, 1, "0 of 1 clients are left"),
        (2, 1, 99, "1 of 2 clients are left, and participation.quorum is 99"),
    ],
)
def test_the_quorum_decides_whether_a_job_goes_on_without_them(
    clients: int, given_up: int, quorum: int | None, message: str | None
) -> None:
    found = too_few(clients, given_up=given_up, quorum=quorum)
    assert (found is None) == (message is None)
    assert (message or "") in (found or "")


class Drawn(nn.Module):
    """A buffer that each process draws for itself."""

    noise: torch.Tensor

    def __init__(self) -> None:
        """From the system's entropy."""
        super().__init__()
        self.register_buffer("noise", torch.from_numpy(np.random.default_rng().normal(size=4)))


def journal(folder: Path, uid: str = "u1") -> Journal:
    """A life of a job."""
    return Journal(Store(folder, uid), CloudMetrics("job"), 1)


def test_a_restarted_cloud_pod_has_the_constants_of_its_first_life(tmp_path: Path) -> None:
    first, second, others, device = Drawn(), Drawn(), Drawn(), Drawn()
    packed = journal(tmp_path).constants(first)
    assert journal(tmp_path).constants(second) == packed
    assert torch.equal(first.noise, second.noise)
    assert journal(tmp_path, "u2").constants(others) != packed, "the volume was another job's"
    unpack(device, packed)
    assert torch.equal(first.noise, device.noise)


def test_constants_that_cannot_be_read_are_told_and_built_anew(tmp_path: Path) -> None:
    journal(tmp_path).constants(Drawn())
    (file,) = tmp_path.glob("constants-*")
    file.write_bytes(file.read_bytes()[:20])
    module, again = Drawn(), journal(tmp_path)
    packed = again.constants(module)
    assert file.read_bytes() == packed
    (told,) = again.notices
    assert told.message.startswith("the model's constants are as built anew: the model's constants")
    assert not journal(tmp_path).constants(nn.Linear(2, 2))
