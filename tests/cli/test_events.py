"""`lockstep events`: those of a job and of what it made, oldest first."""

import json
import threading
from collections.abc import Sequence

import pytest

from tests.support.cli import Lockstep, event, job
from tests.support.patience import PATIENCE_S

JOB = ("FederatedJob", "digits")
POD = ("Pod", "digits-device-fast-0")


def reasons(lines: list[str]) -> list[str]:
    return [line.split()[2] for line in lines[1:]]


def test_they_are_the_jobs_and_its_childrens_oldest_first(lockstep: Lockstep) -> None:
    api = lockstep.api
    api.put("federatedjobs", job())
    for about, reason, at in [
        (POD, "BackOff", "2026-01-01T00:00:03Z"),
        (JOB, "Starting", "2026-01-01T00:00:01Z"),
        (("StatefulSet", "digits-cloud"), "FailedCreate", "2026-01-01T00:00:02Z"),
        (("FederatedJob", "dogs"), "Other", "2026-01-01T00:00:04Z"),
        (("Pod", "digits2-cloud-0"), "Other", "2026-01-01T00:00:04Z"),
        (("Pod", "digits"), "Other", "2026-01-01T00:00:04Z"),
    ]:
        api.put("events", event(about, reason, at=at))
    assert reasons(lockstep("events", "digits").lines) == ["Starting", "FailedCreate", "BackOff"]


def test_what_comes_with_every_round_is_left_out(lockstep: Lockstep) -> None:
    lockstep.api.put("federatedjobs", job())
    lockstep.api.put("events", event(POD, "ResizeCompleted", at="2026-01-01T00:00:01Z"))
    lockstep.api.put("events", event(POD, "Killing", at="2026-01-01T00:00:02Z", type="Warning"))
    assert reasons(lockstep("events", "digits").lines) == ["Killing"]
    everything = lockstep("events", "digits", "--all").lines
    assert reasons(everything) == ["ResizeCompleted", "Killing"]


def test_probes_of_pods_that_begin_or_end_are_left_out(lockstep: Lockstep) -> None:
    lockstep.api.put("federatedjobs", job())
    for at, probe in enumerate(("Startup", "Readiness", "Liveness"), start=1):
        told = f"{probe} probe failed: connection refused"
        more = {"at": f"2026-01-01T00:00:0{at}Z", "type": "Warning", "message": told}
        lockstep.api.put("events", event(POD, "Unhealthy", **more))
    (line,) = lockstep("events", "digits").lines[1:]
    assert "Liveness probe failed" in line
    assert len(lockstep("events", "digits", "--all").lines[1:]) == 3


def test_one_that_was_repeated_says_how_often_and_when_last(lockstep: Lockstep) -> None:
    """Also one in the form of events.k8s.io, whose times are elsewhere."""
    lockstep.api.put("federatedjobs", job())
    old = event(JOB, "Old", at="2026-01-01T00:00:02Z")
    new = event(
        JOB,
        "New",
        at="",
        eventTime="2026-01-01T00:00:01.000000Z",
        series={"count": 5, "lastObservedTime": "2026-01-01T00:00:09.000000Z"},
        count=5,
    )
    lockstep.api.put("events", new)
    lockstep.api.put("events", old)
    lines = lockstep("events", "digits").lines
    assert reasons(lines) == ["Old", "New"]
    assert lines[2].endswith("New of digits (×5)")


def test_a_message_stays_one_line(lockstep: Lockstep) -> None:
    lockstep.api.put("federatedjobs", job())
    told = event(JOB, "Odd", at="2026-01-01T00:00:02Z", message="two\nlines")
    lockstep.api.put("events", told)
    assert lockstep("events", "digits").lines[1].endswith("two lines")


def test_watched_ones_come_once_each(lockstep: Lockstep) -> None:
    """The watch breaks and begins with a new list: nothing is told twice."""
    api = lockstep.api
    api.put("federatedjobs", job())
    api.put("events", event(JOB, "First", at="2026-01-01T00:00:01Z"))

    def watches(count: int) -> None:
        with api.changed:
            assert api.changed.wait_for(lambda: api.watches >= count, timeout=PATIENCE_S)

    def later() -> None:
        watches(1)
        api.put("events", event(JOB, "Second", at="2026-01-01T00:00:02Z"))
        api.end_watches(forget=True)
        watches(3)
        del api.served["/api/v1"]["events"]
        api.end_watches()

    thread = threading.Thread(target=later)
    thread.start()
    done = lockstep("events", "digits", "--watch")
    thread.join()
    told = [line.split()[2] for line in done.lines if not line.startswith("LAST")]
    assert told == ["First", "Second"]
    assert done.code != 0


EVIL = "a\x1b]0;owned\x07b\x1b[31mc\x9b31md\re\u202ef"
"""Sets a terminal's title, colours it, goes back in the line, turns the direction of writing."""


@pytest.mark.parametrize(
    "words", [("events", "digits"), ("describe", "digits"), ("list", "-o", "wide")]
)
def test_what_others_wrote_gives_a_terminal_no_orders(
    lockstep: Lockstep, words: Sequence[str]
) -> None:
    condition = {"type": "Ready", "status": "False", "reason": "PodsNotReady", "message": EVIL}
    told = {"phase": "Running", "conditions": [condition | {"lastTransitionTime": None}]}
    lockstep.api.put("federatedjobs", job(status=told))
    about = event(JOB, "BackOff", at="2026-01-01T00:00:03Z", type="Warning", message=EVIL)
    lockstep.api.put("events", about)
    done = lockstep(*words)
    said = done.out + done.err
    assert "�]0;owned" in said or words[0] == "list"
    assert [sign for sign in "\x1b\x07\x9b\r\u202e" if sign in said] == []


def test_json_of_what_others_wrote_gives_a_terminal_no_orders_and_reads_back(
    lockstep: Lockstep,
) -> None:
    lockstep.api.put("federatedjobs", job(status={"phase": EVIL}))
    told = lockstep("list", "-o", "json").out
    assert json.loads(told)["items"][0]["status"]["phase"] == EVIL
    assert [sign for sign in "\x1b\x07\x9b\r\u202e" if sign in told] == []
