"""`lockstep watch`: lines where there is no terminal, and the result as exit code."""

import math
import threading
from collections.abc import Callable
from dataclasses import replace

import pytest
from rich.console import Console, RenderableType

from lockstep_cli.devices import Device
from lockstep_cli.errors import Exit
from lockstep_cli.facts import Job
from lockstep_cli.follow import Change
from lockstep_cli.screen import Seen, Size, line_of, many_jobs, one_job, sparkline
from lockstep_cli.watched import History, Watched
from tests.support.apiserver import FakeApi
from tests.support.cli import Lockstep, job, planned, running_status
from tests.support.patience import PATIENCE_S


def after(round_: int, **more: object) -> dict[str, object]:
    return running_status(round=round_, progress=f"{round_}/20", **more)


def when_watched(api: FakeApi, *steps: Callable[[], object]) -> threading.Thread:
    """Each step once the one before was seen: there is one watch, which is told everything."""

    def act() -> None:
        with api.changed:
            api.changed.wait_for(lambda: api.watches > 0, timeout=PATIENCE_S)
        for step in steps:
            step()

    thread = threading.Thread(target=act)
    thread.start()
    return thread


def test_each_round_is_a_line_and_the_result_the_exit_code(lockstep: Lockstep) -> None:
    api = lockstep.api
    api.put("federatedjobs", job(status=after(3)))
    complete = {
        "type": "Complete",
        "status": "True",
        "reason": "Target",
        "message": "target reached",
    }
    thread = when_watched(
        api,
        lambda: api.put("federatedjobs", job(status=after(3, clients="1/2"))),
        lambda: api.put("federatedjobs", job(status=after(4))),
        lambda: api.put(
            "federatedjobs", job(status=after(4, phase="Completed", conditions=[complete]))
        ),
    )
    done = lockstep("watch", "digits", "--wait")
    thread.join()
    assert done.code == 0
    assert done.lines[0] == (
        "digits  Running  round 3/20  clients 2/2  accuracy 81.25%  loss 0.5"
        "  energy 1.23 kJ  30s, 2m50s left"
    )
    assert [line.split()[1:4] for line in done.lines] == [
        ["Running", "round", "3/20"],
        ["Running", "round", "4/20"],
        ["Completed", "round", "4/20"],
    ]
    assert done.err == "digits completed: target reached\n"


@pytest.mark.parametrize("phase", ["Failed", "Refused"])
def test_a_job_that_does_not_complete_is_1_and_says_why(lockstep: Lockstep, phase: str) -> None:
    kind = "Failed" if phase == "Failed" else "Accepted"
    why = {
        "type": kind,
        "status": "True" if kind == "Failed" else "False",
        "reason": "Why",
        "message": "words",
    }
    lockstep.api.put("federatedjobs", job(status=after(3, phase=phase, conditions=[why])))
    done = lockstep("watch", "digits", "--wait")
    assert (done.code, done.err) == (
        Exit.FAILED,
        f"error: digits {phase.lower()}: Why: words\n",
    )


def test_a_job_that_is_deleted_meanwhile_is_1(lockstep: Lockstep) -> None:
    api = lockstep.api
    api.put("federatedjobs", job(status=after(3)))
    thread = when_watched(api, lambda: api.remove("federatedjobs", "lab", name="digits"))
    done = lockstep("watch", "digits", "--wait")
    thread.join()
    assert (done.code, done.err) == (Exit.FAILED, "error: digits was deleted\n")


def test_without_wait_the_result_is_no_error(lockstep: Lockstep) -> None:
    lockstep.api.put("federatedjobs", job(status=after(3, phase="Failed")))
    assert lockstep("watch", "digits").code == 0


def test_a_timeout_is_6(lockstep: Lockstep) -> None:
    lockstep.api.put("federatedjobs", job(status=after(3)))
    done = lockstep("watch", "digits", "--wait", "--timeout", "0.2s")
    assert (done.code, done.err) == (Exit.TIMEOUT, "error: not within --timeout\n")


def test_all_jobs_are_waited_for(lockstep: Lockstep) -> None:
    api = lockstep.api
    api.put("federatedjobs", job("a", status=after(3)))
    api.put("federatedjobs", job("b", status=after(3, phase="Completed")))
    api.put("federatedjobs", job("c", "else", status=after(3)))
    thread = when_watched(
        api, lambda: api.put("federatedjobs", job("a", status=after(4, phase="Completed")))
    )
    done = lockstep("watch", "--wait")
    thread.join()
    assert done.code == 0
    assert done.err == "a completed\nb completed\n"


def test_a_job_that_is_not_there_is_not_waited_for(lockstep: Lockstep) -> None:
    assert lockstep("watch", "digits", "--wait").code == Exit.NOT_FOUND


# -- screens --------------------------------------------------------------------------------------


def drawn(picture: RenderableType, width: int) -> list[str]:
    console = Console(width=width, no_color=True, highlight=False)
    with console.capture() as captured:
        console.print(picture)
    return [line.rstrip() for line in captured.get().splitlines()]


def screen_of(replicas: int = 3) -> Seen:
    clients = [planned(f"fast-{n}", applied=n != 1, reason="busy") for n in range(replicas)]
    status = after(
        12, accuracy=0.8, lastRound={"seconds": 2.0}, lastPlan={"round": 13, "clients": clients}
    )
    found = Job(job(status=status, devices=[{"name": "fast", "replicas": replicas}]))
    devices = [Device(one["client"], None, one) for one in clients]
    return Seen(found, devices, accuracies=[0.1, 0.5, 0.8], since_s=1.0, round_s=1.4)


@pytest.mark.parametrize(("width", "height"), [(80, 24), (140, 50), (60, 20), (40, 12)])
def test_a_screen_fits_its_terminal(width: int, height: int) -> None:
    seen = replace(screen_of(1000), note="n" * 300, trouble="t" * 300)
    lines = drawn(one_job(seen, Size(width, height)), width)
    assert max(map(len, lines)) <= width
    assert len(lines) <= height


def test_a_screen_says_what_a_person_looks_at_first() -> None:
    lines = drawn(one_job(screen_of(), Size(100, 24)), 100)
    assert lines[0].startswith("digits  Running   lab · federated · fedavg")
    assert "12/20  19s left  2/2 clients" in lines[1]
    assert lines[1].count("━") == round(48 * 12 / 20 - 0.5)
    assert "80.00%" in lines[2]
    assert "▁▅█" in lines[2]
    assert lines[3] == "round     13 for 1 s, the last took 2 s"
    assert [line.split()[0] for line in lines[-3:]] == ["fast-0", "fast-1", "fast-2"]


def test_what_does_not_fit_is_counted() -> None:
    lines = drawn(one_job(screen_of(1000), Size(80, 24)), 80)
    assert lines[-1] == "and 986 more: lockstep devices"


@pytest.mark.parametrize("odd", [2**63 - 1, -(2**63), 1.7e308, -1.7e308])
def test_a_status_that_a_stranger_wrote_is_drawn_all_the_same(odd: float) -> None:
    """The apiserver keeps any number: a job says 'no operator wrote this' by looking odd."""
    figures = {"accuracy": odd, "loss": odd, "elapsedSeconds": odd, "energyJoules": {"model": odd}}
    counts = {"round": int(odd) % 2**63, "rounds": 2**63 - 1}
    for count in (counts, {"round": -(2**63), "rounds": 1}, {"round": 1, "rounds": -(2**63)}):
        body = job(status={"phase": "Running", **figures, **count, "lastRound": {"seconds": odd}})
        seen = Seen(Job(body), accuracies=[odd, -odd, 0.5, math.inf, math.nan])
        for picture in (one_job(seen, Size(100, 30)), many_jobs([seen], Size(120, 30))):
            assert all(len(line) <= 120 for line in drawn(picture, 120))
        assert line_of(seen.job).startswith("digits")


def test_many_jobs_are_a_line_each() -> None:
    seen = [replace(screen_of(), job=Job(job(f"job-{n}", status=after(5)))) for n in range(50)]
    lines = drawn(many_jobs(seen, Size(80, 20)), 80)
    assert len(lines) <= 20
    assert lines[1].split()[:4] == ["lab", "job-0", "Running", "5/20"]
    assert lines[-1] == "and 33 more"


@pytest.mark.parametrize(
    ("values", "width", "line"),
    [
        ([], 8, ""),
        ([0.5], 8, "▁"),
        ([0.0, 0.5, 1.0], 8, "▁▅█"),
        ([float(n) for n in range(100)], 8, "▁▂▃▄▅▅▆█"),
    ],
)
def test_a_curve_in_a_line(values: list[float], width: int, *, line: str) -> None:
    assert sparkline(values, width) == line


# -- what is known while watching ------------------------------------------------------------------


def change(*bodies: dict[str, object], trouble: str = "") -> Change:
    return Change({("lab", str(n)): body for n, body in enumerate(bodies)}, trouble=trouble)


def test_the_time_left_goes_down_between_two_statuses() -> None:
    watched = Watched()
    watched.hear_jobs(change(job(status=after(10))), 100.0)
    (seen,) = watched.seen(104.0)
    assert seen.since_s == 4.0
    assert "26s left" in "\n".join(drawn(one_job(seen, Size(80, 24)), 80))


def test_a_round_begins_when_the_one_before_was_seen_to_end() -> None:
    watched = Watched()
    watched.hear_jobs(change(job(status=after(10))), 100.0)
    assert watched.seen(101.0)[0].round_s is None
    watched.hear_jobs(change(job(status=after(11))), 103.0)
    assert watched.seen(104.5)[0].round_s == 1.5


def test_what_was_before_comes_before_what_was_seen() -> None:
    watched = Watched()
    watched.hear_jobs(change(job(status=after(10, accuracy=0.3))), 0.0)
    watched.hear_jobs(change(job(status=after(11, accuracy=0.4))), 1.0)
    watched.hear_history(History(("lab", "0"), [0.1, 0.2, 0.3]))
    assert list(watched.seen(2.0)[0].accuracies) == [0.1, 0.2, 0.3, 0.4]


def test_a_cluster_that_is_away_changes_nothing_but_is_told() -> None:
    watched = Watched()
    watched.hear_jobs(change(job(status=after(10))), 0.0)
    assert watched.hear_jobs(change(trouble="no answer"), 1.0) == []
    (seen,) = watched.seen(1.0)
    assert (seen.job.round, seen.trouble) == (10, "no answer")
