"""The history: each round once, in order, within its bound; cut and resumed from its end."""

import json
from pathlib import Path
from typing import Any

import pytest

from lockstep_api.mistrust import Mistrusted
from lockstep_api.records import HISTORY_FILE, RoundRecord
from lockstep_api.sessions import Refusal
from lockstep_api.status import EnergyJoules
from lockstep_api.wire import ClientPlan, ClientReport, PlanBasis, RoundPlan, UpdateReport
from lockstep_workers.cloud import history
from lockstep_workers.cloud.checkpoint import Checkpoint
from lockstep_workers.cloud.history import History, most_bytes
from lockstep_workers.cloud.store import Store
from lockstep_workers.learning.rounds import Progress
from tests.support.checkpoints import LIKE, checkpoint

BOUND = 40_000


def report(number: int, *, clients: int = 3) -> RoundRecord:
    """A finished round of so many clients, which one client was missing from, and its plan."""
    names = [f"d-{i}" for i in range(clients)]
    basis = PlanBasis(mbps=12.3456, upload_mbit=8.1, work_per_step=0.0123456, finish_seconds=1.4321)
    plan = RoundPlan(
        round=number, rounds=99, participants=[
            ClientPlan(
                client=name, frequency_ghz=1, cpu_milli=500, steps=1, applied=True, basis=basis
            )
            for name in [*names, "d-9"]
        ],
    )  # fmt: skip
    updates = [
        UpdateReport(
            client=name, round=number, examples=1, steps=1, download_seconds=0,
            compute_seconds=0, cpu_seconds=0, throttled_seconds=0, frequency_ghz=1,
            energy_joules=EnergyJoules(model=1.0),
        )
        for name in names
    ]  # fmt: skip
    arrived = [
        ClientReport(update=u, arrived_seconds=0, upload_seconds=0, bytes=0) for u in updates
    ]
    return RoundRecord(
        round=number, planned=True, seconds=1.5, elapsed_seconds=1.5 * number, clients=arrived,
        lost=["d-9"], refused={Refusal.SHAPE: 2}, accuracy=0.5, loss=1.0,
        energy_joules=EnergyJoules(model=float(number)), plan=plan,
    )  # fmt: skip


def lines(path: Path) -> list[dict[str, Any]]:
    """The rounds of a file."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_file_stays_within_its_bound_and_holds_each_round_once(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    kept = History(path, BOUND)
    for number in range(1, 81):
        kept.add(report(number))
        assert path.stat().st_size <= BOUND
    found = lines(path)
    assert [line["round"] for line in found] == list(range(1, 81))
    whole = [line["round"] for line in found if "clients" in line]
    assert all(line["plan"]["round"] == line["round"] for line in found if "clients" in line)
    assert not any("plan" in line for line in found if "clients" not in line)
    assert whole == list(range(whole[0], 81)), "the newest are whole"
    assert len(whole) >= 5
    older = found[0]
    assert (older["updates"], older["missing"], older["refused"]) == (3, 1, {"shape": 2})
    assert (older["seconds"], older["accuracy"], older["energyJoules"]) == (1.5, 0.5, {"model": 1})


def test_an_older_round_that_was_taken_back_says_how_often(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    kept, doubted = History(path, BOUND), Mistrusted(taken_back=["the loss is 9", "it is 8"])
    for number in range(1, 81):
        kept.add(report(number).model_copy(update={"mistrusted": doubted} if number == 2 else {}))
    found = lines(path)
    assert not any("clients" in line for line in found[:3]), "they are summed up"
    assert [line["takenBack"] for line in found[:3]] == [0, 2, 0]


def test_the_oldest_summaries_go_when_they_alone_are_too_much(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    kept = History(path, BOUND)
    for number in range(1, 401):
        kept.add(report(number, clients=1))
        assert path.stat().st_size <= BOUND
    rounds = [line["round"] for line in lines(path)]
    assert rounds == list(range(rounds[0], 401)), "no gap"
    assert rounds[0] > 1
    assert len(rounds) > 60


def test_a_round_of_very_many_clients_is_only_summed_up(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    kept = History(path, BOUND)
    kept.add(report(1, clients=100))
    assert lines(path)[0]["updates"] == 100


def test_rounds_of_a_shortened_history_are_cut_and_added_again(tmp_path: Path) -> None:
    path = tmp_path / "h.jsonl"
    kept = History(path, BOUND)
    for number in range(1, 81):
        kept.add(report(number))
    with path.open("ab") as file:
        file.write(b'{"round":81,"pla')
    again = History(path, BOUND)
    assert again.cut(last_round=40) == 80
    assert [line["round"] for line in lines(path)] == list(range(1, 41))
    again.add(report(41))
    assert [line["round"] for line in lines(path)] == list(range(1, 42))


def test_a_crash_while_it_is_shortened_leaves_it_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "h.jsonl"
    kept = History(path, BOUND)
    number = 1
    kept.add(report(number))
    while path.stat().st_size + 3000 < BOUND:
        number += 1
        kept.add(report(number))

    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("lockstep_workers.files.os.fsync", full)
        with pytest.raises(OSError, match="No space left"):
            kept.add(report(number + 1, clients=20))
    rounds = [line["round"] for line in lines(path)]
    assert rounds == list(range(1, number + 1))
    kept.add(report(rounds[-1] + 1))
    assert [line["round"] for line in lines(path)] == [*rounds, rounds[-1] + 1]


@pytest.mark.parametrize("last_round", [0, 1, 2])
def test_a_resumed_job_reads_its_end_only(tmp_path: Path, last_round: int) -> None:
    """The file begins with more zeros than any memory has room for."""
    path = tmp_path / HISTORY_FILE
    hole = 1 << 38
    with path.open("wb") as file:
        file.truncate(hole)
        file.seek(hole)
        file.write(b"\n")
        for number in (1, 2, 3):
            file.write(report(number).to_json().encode() + b"\n")
    store = Store(tmp_path, "u")
    if last_round:
        store.save(
            Checkpoint(Progress(round=last_round, report=report(last_round)), checkpoint(1).state)
        )
    assert store.resume(LIKE).finished == 3
    whole = sum(len(report(n).to_json()) + 1 for n in range(1, last_round + 1))
    assert path.stat().st_size == (hole + 1 + whole if last_round else 0)


def test_lines_longer_than_what_is_read_at_once_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "h.jsonl"
    kept = History(path, 10 * BOUND)
    for number in (1, 2, 3, 4):
        kept.add(report(number, clients=number))
    for block in (1, 7, 300, 1 << 16):
        monkeypatch.setattr(history, "_BLOCK", block)
        again = History(path, 10 * BOUND)
        assert again.cut(last_round=3) in (3, 4)
        assert [line["round"] for line in lines(path)] == [1, 2, 3]


def test_the_bound_is_a_small_part_of_the_volume(tmp_path: Path) -> None:
    assert 1 << 20 <= most_bytes(tmp_path) <= 32 << 20
