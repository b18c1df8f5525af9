"""Plans and work of a cluster's job, read from the history that its cloud pod wrote."""

from dataclasses import replace
from pathlib import Path

import pytest

from lockstep_simulator.emulation import NO_OVERHEADS
from lockstep_simulator.replay import Replay, read_history
from lockstep_simulator.simulated import SimulatedRound
from lockstep_simulator.work import from_history
from lockstep_workers.cloud.history import History
from lockstep_workers.errors import InvalidJob
from tests.support.simulating import WORK, group, rounds, spec

JOB = spec(group("d", 6), participation={"fraction": 0.5}, training={"rounds": 6})


def written(done: list[SimulatedRound], path: Path, *, most_bytes: int = 1 << 20) -> str:
    """The file that a cloud pod would have written."""
    history = History(path, most_bytes)
    for one in done:
        history.add(one.record)
    return path.read_text()


def test_a_history_played_again_is_the_same_job(tmp_path: Path) -> None:
    """Who took part, with how many steps and at which frequency: nothing is sampled anew."""
    done = rounds(JOB, failures=0.2)
    reports = read_history(written(done, tmp_path / "history.jsonl"), source="history.jsonl")
    other = spec(group("d", 6), training={"rounds": 99, "localSteps": {"fixed": 77}})
    again = rounds(other, planner=Replay.of(other, reports))
    assert [one.report.lost for one in again] == [one.report.lost for one in done]
    assert [one.accuracy for one in again] == [one.accuracy for one in done]
    assert [one.report.seconds for one in again] == pytest.approx(
        [one.report.seconds for one in done]
    )


def test_work_is_the_median_of_each_client(tmp_path: Path) -> None:
    reports = [one.report for one in rounds(JOB)]
    dear = reports[0].clients[0]
    dear = dear.model_copy(update={"update": dear.update.model_copy(update={"cpu_seconds": 9.0})})
    reports[0] = reports[0].model_copy(update={"clients": [dear, *reports[0].clients[1:]]})
    found = from_history([f"d-{i}" for i in range(7)], reports, aside_s=0.0)
    assert found == pytest.approx(dict.fromkeys((f"d-{i}" for i in range(7)), WORK))
    with pytest.raises(InvalidJob, match="no round with an update"):
        from_history(["d-0"], [])


def test_what_a_training_takes_beside_its_steps_is_no_work_of_them() -> None:
    aside = replace(NO_OVERHEADS, aside_s=0.01)
    reports = [one.report for one in rounds(JOB, overheads=aside)]
    names = [f"d-{i}" for i in range(6)]
    assert from_history(names, reports, aside_s=0.01) == pytest.approx(dict.fromkeys(names, WORK))
    least = from_history(names, reports, aside_s=9.0)
    assert least == pytest.approx(dict.fromkeys(names, (WORK + 0.002) / 2))


def test_a_history_that_is_none_is_refused(tmp_path: Path) -> None:
    done = rounds(JOB)
    reports = [one.report for one in done]
    text = written(done, tmp_path / "history.jsonl")
    with pytest.raises(InvalidJob, match=r"notes\.txt, line 1 is no round of a history"):
        read_history("hello\n", source="notes.txt")
    with pytest.raises(InvalidJob, match="has no round with its clients"):
        read_history("", source="empty")
    cut = read_history(text, source="history")[2:]
    with pytest.raises(InvalidJob, match="the plans of round 1 are missing"):
        Replay.of(JOB, cut)
    with pytest.raises(InvalidJob, match="of another job: it has client d-"):
        Replay.of(spec(group("other", 6)), reports)


def test_summed_up_rounds_are_passed_over(tmp_path: Path) -> None:
    done = rounds(JOB)
    reports = [one.report for one in done]
    text = written(done, tmp_path / "history.jsonl", most_bytes=8000)
    found = read_history(text, source="history")
    assert 0 < len(found) < len(reports)
    assert found[-1] == reports[-1]
