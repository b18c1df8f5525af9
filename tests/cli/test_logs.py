"""`lockstep logs`: all pods of a job as one log."""

import json
import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from lockstep_cli.cluster import Cluster, Where, connect
from lockstep_cli.commands.logs import Follower, Shower
from lockstep_cli.facts import Job
from lockstep_cli.feed import Ended, Feed, Heard
from lockstep_cli.follow import Change
from lockstep_cli.log_lines import Asked, readable
from tests.support.apiserver import FakeApi
from tests.support.cli import Lockstep, device_pod, job, pod, running_status


def at(second: int, text: str) -> str:
    return f"2026-01-01T00:00:{second:02d}.000000000Z {text}"


@pytest.fixture
def running(api: FakeApi) -> FakeApi:
    """A job with a cloud pod and two devices, which have said something."""
    api.put("federatedjobs", job(status=running_status()))
    api.put("pods", pod("digits-cloud-0", "cloud"))
    for name in ("fast-0", "fast-1"):
        api.put("pods", device_pod(name, group="fast"))
    api.logs["lab", "digits-cloud-0"] = [at(1, "begins"), at(4, "ends")]
    api.logs["lab", "digits-device-fast-0"] = [at(2, "trains")]
    api.logs["lab", "digits-device-fast-1"] = [at(3, "trains too")]
    return api


ALL = ["cloud  | begins", "fast-0 | trains", "fast-1 | trains too", "cloud  | ends"]


def test_lines_of_all_pods_are_in_order_of_time(running: FakeApi, lockstep: Lockstep) -> None:
    assert lockstep("logs", "digits").lines == ALL


@pytest.mark.parametrize(
    ("options", "lines"),
    [
        (("--tail", "1"), [ALL[1], ALL[2], ALL[3]]),
        (("--tier", "device"), [ALL[1], ALL[2]]),
        (("--pod", "fast-1"), ["fast-1 | trains too"]),
        (("--pod", "digits-cloud-0", "--pod", "fast-1"), ["cloud  | begins", *ALL[2:]]),
    ],
)
def test_some_lines_are_chosen(
    running: FakeApi, lockstep: Lockstep, *, options: tuple[str, ...], lines: list[str]
) -> None:
    assert lockstep("logs", "digits", *options).lines == lines


def test_since_is_asked_of_the_cluster(running: FakeApi, lockstep: Lockstep) -> None:
    lockstep("logs", "digits", "--since", "1h30m")
    asked = [query for _, path, query in running.requests if path.endswith("/log")]
    assert {query["sinceSeconds"] for query in asked} == {"5400"}
    assert {query["container"] for query in asked} == {"worker"}


def test_a_wrong_time_is_a_wrong_command_line(running: FakeApi, lockstep: Lockstep) -> None:
    done = lockstep("logs", "digits", "--since", "soon")
    assert done.code == 2
    assert "'soon' is no time: write 90, 90s, 5m, 1h30m or 2d" in done.err


def test_a_pod_that_cannot_be_read_does_not_keep_others_from_it(
    running: FakeApi, lockstep: Lockstep
) -> None:
    del running.logs["lab", "digits-device-fast-0"]
    done = lockstep("logs", "digits")
    assert done.code == 0
    assert done.lines == [ALL[0], ALL[2], ALL[3]]
    assert done.err.startswith("fast-0: the cluster refused it: container worker")


def test_a_line_cannot_make_another_or_colour_the_terminal(
    running: FakeApi, lockstep: Lockstep
) -> None:
    running.logs["lab", "digits-device-fast-1"] = [at(3, "evil\x1b[31m\rcloud | all is lost")]
    assert "fast-1 | evil\\x1b[31m\\rcloud | all is lost" in lockstep("logs", "digits").lines


def test_a_pod_that_is_not_there_is_answered_with_those_that_are(
    running: FakeApi, lockstep: Lockstep
) -> None:
    done = lockstep("logs", "digits", "--pod", "slow-0")
    assert done.code == 5
    assert done.err == "error: no pod of digits is meant: there are cloud, fast-0, fast-1\n"


def test_a_job_without_pods_says_why_there_are_no_logs(lockstep: Lockstep) -> None:
    lockstep.api.put("federatedjobs", job(status=running_status(phase="Completed")))
    done = lockstep("logs", "digits", "--follow")
    assert done.code == 5
    assert "digits is completed and has no pods" in done.err


def test_followed_logs_go_on_with_new_pods_until_the_job_has_ended(
    running: FakeApi, lockstep: Lockstep
) -> None:
    """And with a container that was restarted, from its beginning, whatever --tail says."""
    api = running

    def reads(count: int) -> None:
        def reached() -> bool:
            asked = [path for _, path, _ in tuple(api.requests) if path.endswith("/log")]
            return len(asked) >= count

        with api.changed:
            while not reached():
                api.changed.wait(0.01)

    def later() -> None:
        reads(3)
        api.say("lab", "digits-device-fast-2", line=at(5, "is new"))
        api.put("pods", device_pod("fast-2", group="fast"))
        reads(4)
        api.end_log("lab", "digits-device-fast-0")
        api.put("pods", device_pod("fast-0", group="fast", restarts=1))
        reads(5)
        api.put("federatedjobs", job(status=running_status(phase="Completed")))
        for name in ("cloud-0", "device-fast-0", "device-fast-1", "device-fast-2"):
            api.end_log("lab", f"digits-{name}")

    thread = threading.Thread(target=later)
    thread.start()
    done = lockstep("logs", "digits", "--follow", "--tail", "1")
    thread.join()
    assert done.code == 0
    assert sorted(done.lines) == sorted([ALL[3], ALL[1], ALL[1], ALL[2], "fast-2 | is new"])
    tails = [q.get("tailLines") for _, path, q in api.requests if path.endswith("/log")]
    assert tails == ["1", "1", "1", "1", None]


class Played(Feed):
    """A feed that says what a test puts into it, and remembers what it was asked to follow."""

    def __init__(self, cluster: Cluster, *said: Heard | Ended) -> None:
        super().__init__(cluster)
        self.asked: list[str] = []
        for one in said:
            self.items.put(one)

    def add(self, source: str, things: Callable[[], Iterable[Any]]) -> None:
        self.asked.append(source)


def test_a_restart_that_is_heard_of_before_the_log_ends_is_read_at_its_end(
    running: FakeApi, lockstep: Lockstep
) -> None:
    """The watch of pods and their logs come over connections of their own, in any order."""

    def pods(restarts: int) -> Heard:
        body = running.put("pods", device_pod("fast-0", group="fast", restarts=restarts))
        return Heard("pods", Change({("lab", "digits-device-fast-0"): body}))

    ended = running.put("federatedjobs", job(status=running_status(phase="Completed")))
    cluster = connect(Where(kubeconfig=lockstep.kubeconfig))
    log_ends = Ended("digits-device-fast-0")
    over = Heard("job", Change({("lab", "digits"): ended}))
    feed = Played(cluster, pods(0), pods(1), log_ends, over, log_ends)
    Follower(cluster, Asked(follow=True), show=Shower(False, True), feed=feed).run(Job(ended))
    assert feed.asked == ["job", "pods", "digits-device-fast-0", "digits-device-fast-0"]


def test_a_workers_line_is_made_readable() -> None:
    told = {"round": 5, "event": "round finished", "level": "info"}
    raw = json.dumps({**told, "timestamp": "2026-01-01T01:02:03Z"})
    assert readable(raw) == "01:02:03 round finished  round=5"
    assert readable(raw.replace("info", "warning")) == "01:02:03 WARNING round finished  round=5"
    for other in ("plain", "[1]", '{"event": "x"}', "3", "[" * 100_000):
        assert readable(other) == other
