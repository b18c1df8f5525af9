"""Training in several processes: the same results, the user's errors, a clean end."""

import os
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lockstep_api.settings import JobSettings
from lockstep_simulator import batched
from lockstep_simulator.batched import Batched, fastest
from lockstep_simulator.processes import Pool, in_processes
from lockstep_simulator.repeating import repeating
from lockstep_simulator.shared import Arena, SharedArray
from lockstep_simulator.simulation import settings_of
from lockstep_simulator.trainers import OneByOne, Order, Way, build_clients
from lockstep_workers.errors import InvalidJob, JobFailed
from lockstep_workers.learning.client import Trained
from lockstep_workers.learning.strategies import build_strategy
from lockstep_workers.learning.strategy import MODEL, NO_MEMORY, ClientMemory, Vector
from tests.support.simulating import DATASET, group, setup, spec
from tests.support.tasks import Task

OWN = """\
import torch
from torch import nn

class Own(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(784, 10)

    def forward(self, x):
        if self.training and len(x) < 12:
            raise ValueError(f"{len(x)} are too few")
        return self.inner(x.flatten(1))

def build():
    return Own()
"""


@pytest.fixture(autouse=True)
def as_in_a_simulation(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread; and the work of these tests, which is little, is to be shared all the same."""
    monkeypatch.setattr(batched, "_LITTLE", 0)
    with repeating(deterministic=False):
        yield


def job(**more: Any) -> JobSettings:
    """A job of six devices."""
    return settings_of(setup(spec(group("d", 6), **more)))


def way(of: JobSettings) -> Way:
    """How its clients train here."""
    return fastest(OneByOne(build_clients(of, DATASET), of.model.entrypoint))


@contextmanager
def pool(of: JobSettings) -> Iterator[Pool]:
    """Two processes that are there."""
    with in_processes(way(of), of, processes=2, alone_s=0.0) as made:
        assert isinstance(made, Pool)
        made.wait_until_ready()
        yield made


def asked(of: JobSettings, memories: list[ClientMemory] | None = None) -> list[Order]:
    """Everybody takes steps, unequally many."""
    memories, numbers = memories or [NO_MEMORY] * 6, numbers_of(of)
    base = 1 if memories[0].vectors else None
    return [
        Order(name, Task(2 if base else 1, 2 + i % 3, base, 3.0, numbers), memory)
        for i, (name, memory) in enumerate(zip(of.clients(), memories, strict=True))
    ]


def numbers_of(of: JobSettings) -> Mapping[str, float]:
    """The server's, which travel with every task."""
    strategy = build_strategy(of.strategy, momentum=of.training.momentum)
    return strategy.start(np.zeros(1, np.float32)).numbers


def start(here: Way) -> dict[str, Vector]:
    """What everyone receives."""
    client = next(iter(here.clients.values()))
    model = client.model.vector.numpy().copy()
    state = client.strategy.start(model)
    return {name: state.vectors[name] for name in client.strategy.broadcasts}


def assert_equal(found: list[Trained], expected: list[Trained]) -> None:
    """Whether trainings are the same bit for bit."""
    for one, other in zip(found, expected, strict=True):
        assert (one.steps, one.loss) == (other.steps, other.loss)
        assert one.memory.numbers == other.memory.numbers
        for name in other.uploads:
            np.testing.assert_array_equal(one.uploads[name], other.uploads[name])
        for name, vector in other.memory.vectors.items():
            np.testing.assert_array_equal(one.memory.vectors[name], vector)


JOBS = {
    "in groups": {},
    "one by one": {"model": {"name": "cnn", "args": {"channels": 4}}},
    "with memory": {"strategy": {"name": "scaffold"}},
}


@pytest.mark.parametrize("more", JOBS.values(), ids=JOBS)
def test_results_do_not_depend_on_the_number_of_processes(more: dict[str, Any]) -> None:
    of = job(**more)
    here = way(of)
    assert isinstance(here, Batched) == ("model" not in more)
    given = start(here)
    with pool(of) as there:
        expected = here.train(given, asked(of))
        found = there.train(given, asked(of))
        assert_equal(found, expected)
        assert not any(hand.unit for hand in there._hands)
        memories = [one.memory for one in found]
        moved = {name: vector + np.float32(0.001) for name, vector in given.items()}
        assert_equal(
            there.train(moved, asked(of, memories)), here.train(moved, asked(of, memories))
        )


def test_what_a_process_gave_stays_when_it_trains_again() -> None:
    of = job()
    given = start(way(of))
    with pool(of) as there:
        first = there.train(given, asked(of))
        kept = [one.uploads[MODEL].copy() for one in first]
        there.train({MODEL: given[MODEL] + np.float32(1)}, asked(of))
        for one, before in zip(first, kept, strict=True):
            np.testing.assert_array_equal(one.uploads[MODEL], before)


def test_this_process_trains_until_the_others_are_worth_their_start() -> None:
    of = job()
    here, now_s = way(of), iter(range(100))
    given = start(here)
    made = Pool(here, of, processes=2, alone_s=3.0, clock=lambda: float(next(now_s)))
    try:
        assert_equal(made.train(given, asked(of)[:2]), here.train(given, asked(of)[:2]))
        assert made._hands == []
        assert_equal(made.train(given, asked(of)), here.train(given, asked(of)))
        assert len(made._hands) == 2
        made.wait_until_ready()
        assert_equal(made.train(given, asked(of)), here.train(given, asked(of)))
    finally:
        made.close()


def test_what_the_users_code_raises_in_a_process_is_told_as_in_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_in_processes.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    of = job(model={"entrypoint": "own_in_processes:build"}, training={"batchSize": 8})
    given = start(way(of))
    said = r"client d-2: training in round 1 raised ValueError: 8 are too few .*own_in_process.*:11"
    with pool(of) as there:
        with pytest.raises(InvalidJob, match=said):
            there.train(given, asked(of))
        with pytest.raises(InvalidJob, match=said):
            there.train(given, asked(of))


def test_a_process_that_is_killed_ends_the_job_with_a_reason() -> None:
    of = job()
    with pool(of) as there:
        os.kill(there._hands[1].process.pid or 0, signal.SIGKILL)
        with pytest.raises(JobFailed, match="ended with signal 9; it may have needed more memory"):
            there.train(start(way(of)), asked(of))


def test_processes_are_deaf_to_ctrl_c_and_end_with_their_pool() -> None:
    with pool(job()) as there:
        for hand in there._hands:
            status = Path(f"/proc/{hand.process.pid}/status").read_text()
            blocked = next(line for line in status.splitlines() if line.startswith("SigBlk"))
            assert int(blocked.split()[1], 16) & 1 << (signal.SIGINT - 1)
        pids = [hand.process.pid for hand in there._hands]
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_one_process_is_this_one() -> None:
    of = job()
    here = way(of)
    with in_processes(here, of, processes=1) as made:
        assert made is here


def test_an_arena_takes_what_fits_and_lets_the_rest_travel_with_the_object() -> None:
    arena = Arena(100)
    values = [np.arange(n, dtype=np.float32) for n in (3, 5, 7)]
    packed = arena.pack(values)
    assert [end - begin for begin, end in packed[1]] == [12, 20]
    assert all(begin % 64 == 0 for begin, _ in packed[1])
    copies, views = arena.unpack(packed, copy=True), arena.unpack(packed, copy=False)
    arena.pack([np.full(3, 9, np.float32)])
    for copy, value in zip(copies, values, strict=True):
        np.testing.assert_array_equal(copy, value)
    assert views[0].tolist() == [9, 9, 9]


def test_shared_arrays_hold_what_was_joined() -> None:
    parts = [np.arange(4).reshape(2, 2), np.arange(6).reshape(3, 2)]
    np.testing.assert_array_equal(SharedArray.joined(parts).array(), np.concatenate(parts))
