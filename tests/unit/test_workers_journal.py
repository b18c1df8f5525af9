"""What the journal writes of rounds and clients; a full volume stops neither."""

import errno
from pathlib import Path

import pytest

from lockstep_api.records import CLIENTS_FILE, HISTORY_FILE, ClientsRecord, RoundRecord
from lockstep_api.sessions import Registration
from lockstep_workers.cloud import store
from lockstep_workers.cloud.journal import Journal
from lockstep_workers.cloud.metrics import CloudMetrics
from lockstep_workers.cloud.store import Store
from tests.support.checkpoints import LIKE, checkpoint, plan


def journal(folder: Path, uid: str = "u") -> Journal:
    """A life of a job."""
    return Journal(Store(folder, uid), CloudMetrics("job"), 1)


def told(client: str, *labels: int) -> Registration:
    """A client that has come."""
    return Registration(client=client, incarnation="a", examples=9, label_histogram=list(labels))


def written(folder: Path) -> dict[str, list[int]]:
    """Client → labels, as the file has them."""
    record = ClientsRecord.model_validate_json((folder / CLIENTS_FILE).read_bytes())
    return {one.client: one.labels for one in record.clients}


async def test_a_line_of_the_history_has_the_plan_that_the_round_followed(tmp_path: Path) -> None:
    done = checkpoint(1)
    await journal(tmp_path).finished(done.progress, done.state)
    (line,) = (tmp_path / HISTORY_FILE).read_text().splitlines()
    record = RoundRecord.model_validate_json(line)
    assert record.plan == plan(1)
    assert record.accuracy == 0.5


async def test_clients_are_written_when_one_says_what_it_did_not_say_before(tmp_path: Path) -> None:
    kept, file = journal(tmp_path), tmp_path / CLIENTS_FILE
    await kept.met([told("d-1", 1, 2), told("d-0", 3, 4)])
    assert written(tmp_path) == {"d-0": [3, 4], "d-1": [1, 2]}
    file.unlink()
    await kept.met([told("d-0", 3, 4)])
    assert not file.exists(), "one that has gone, or has come back, is no news"
    await kept.met([told("d-0", 3, 5)])
    assert written(tmp_path) == {"d-0": [3, 5], "d-1": [1, 2]}
    await kept.met([told("d-2")])
    assert written(tmp_path) == {"d-0": [3, 5], "d-1": [1, 2], "d-2": []}


async def test_a_resumed_job_keeps_the_clients_of_its_lives_before(tmp_path: Path) -> None:
    first, done = journal(tmp_path), checkpoint(1)
    await first.met([told("d-0", 1), told("d-1", 2)])
    await first.save(done.progress, done.state)
    again = journal(tmp_path)
    await again.resume(LIKE)
    await again.met([told("d-1", 3)])
    assert written(tmp_path) == {"d-0": [1], "d-1": [3]}


async def test_a_job_that_begins_anew_has_its_own_clients_only(tmp_path: Path) -> None:
    await journal(tmp_path).met([told("d-0", 1)])
    other = journal(tmp_path, "another")
    await other.resume(LIKE)
    await other.met([told("x-0", 2)])
    assert written(tmp_path) == {"x-0": [2]}


async def test_clients_that_a_full_volume_did_not_take_are_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = journal(tmp_path)

    def full(_path: Path, *_pieces: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_whole", full)
        await kept.met([told("d-0", 1)])
    assert not (tmp_path / CLIENTS_FILE).exists()
    await kept.met([told("d-0", 1)])
    assert written(tmp_path) == {"d-0": [1]}


async def test_labels_that_would_take_much_of_the_volume_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "most_bytes", lambda _folder: 4000)
    kept = journal(tmp_path)
    await kept.met([told("d-0", *range(100, 200))])
    assert written(tmp_path) == {"d-0": [*range(100, 200)]}
    await kept.met([told(f"d-{i}", *range(100, 200)) for i in range(3)])
    assert written(tmp_path) == {"d-0": [], "d-1": [], "d-2": []}
