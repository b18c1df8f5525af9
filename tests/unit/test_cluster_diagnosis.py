"""What is told when nodes do not get ready, and that one slow answer ends nothing."""

from dataclasses import replace
from typing import Any

import pytest

from tests.cluster.apiclient import ApiClient, wait_until
from tests.cluster.diagnosis import Facts, likely_cause, report, telling_lines, unready
from tests.cluster.errors import ClusterError, NoAnswerError

WELL = Facts(available_mib=4000, load_per_cpu=0.5)
TIMED_OUT = (
    'E1128 09:28:01.1   261 kubelet_node_status.go:107] "Unable to register node with API server" '
    'err="Post \\"https://10.89.0.1:6443/api/v1/nodes\\": dial tcp 10.89.0.1:6443: i/o timeout" '
    'node="two"'
)
ECHO = (
    'E1128 09:28:03.847133   261 kubelet.go:3516] "Unable to register mirror pod because node is '
    'not registered yet" err="node \\"two\\" not found" node="two"'
)
LOG = f"""\
I1128 09:28:00.000001   261 server.go:1] "Started kubelet"
{TIMED_OUT}
{ECHO}
{TIMED_OUT.replace("28:01.1", "28:02.2")}
{ECHO}
"""


def node(name: str, status: str, message: str = "") -> dict[str, Any]:
    condition = {"type": "Ready", "status": status, "message": message}
    return {"metadata": {"name": name}, "status": {"conditions": [condition]}}


def test_unready_nodes_are_named_with_what_is_known_of_them() -> None:
    items = [node("one", "True"), node("two", "False", "container runtime is down")]
    assert unready(items, ["one", "two", "three"]) == {
        "two": "container runtime is down",
        "three": "never registered",
    }


def test_a_node_that_told_nothing_yet_is_unready() -> None:
    assert unready([{"metadata": {"name": "one"}}], ["one"]) == {
        "one": "has told nothing of itself"
    }


def test_of_a_kubelets_log_each_kind_of_error_is_told_once_and_no_echo() -> None:
    (line,) = telling_lines(LOG)
    assert "dial tcp 10.89.0.1:6443: i/o timeout" in line


def test_the_last_kinds_of_errors_are_told() -> None:
    log = "".join(f'E1128 09:28:0{i}.1 1 a.go:1] "{name} failed"\n' for i, name in enumerate("abc"))
    log = log.replace('"', "")
    assert [line.split()[1] for line in telling_lines(log)] == ["b", "c"]


def test_a_report_has_node_kubelet_and_cause() -> None:
    facts = replace(WELL, forwards=False, filters_bridges=True)
    lines = report({"two": "never registered"}, {"two": LOG}, facts=facts).splitlines()
    assert lines[0] == "  node two: never registered"
    assert "i/o timeout" in lines[1]
    assert "FORWARD policy is DROP" in lines[2]
    assert "br_netfilter" in lines[2]


@pytest.mark.parametrize(
    ("said", "facts", "cause"),
    [
        ("dial tcp: no route to host", WELL, "packet filter"),
        ("dial tcp: i/o timeout", replace(WELL, load_per_cpu=9), "busy"),
        ("", replace(WELL, load_per_cpu=9), "busy"),
        ("", replace(WELL, available_mib=100), "100 MiB of memory"),
        ("inotify_init: too many open files", replace(WELL, inotify_instances=128), "of 128"),
        ("write x: no space left on device", WELL, "disk is full"),
        ("Failed to start ContainerManager", WELL, "cgroup controller"),
        ("x509: certificate is not yet valid", WELL, "clock"),
    ],
)
def test_the_likely_cause(said: str, facts: Facts, cause: str) -> None:
    assert cause in (likely_cause(said, facts) or "")


def test_no_cause_is_made_up() -> None:
    assert likely_cause("something new", WELL) is None


def test_one_slow_answer_does_not_end_a_wait() -> None:
    answers = iter([NoAnswerError("The read operation timed out"), None])

    def done() -> bool:
        if (error := next(answers)) is not None:
            raise error
        return True

    wait_until(done, "it", every_s=0)


def test_a_refusal_ends_a_wait_at_once() -> None:
    def done() -> bool:
        raise ClusterError("403")

    with pytest.raises(ClusterError, match="403"):
        wait_until(done, "it", every_s=0)


def test_what_never_answers_is_told_at_the_end() -> None:
    def done() -> bool:
        raise NoAnswerError("the read operation timed out")

    with pytest.raises(ClusterError, match="not happen within 0 s: the read operation timed out"):
        wait_until(done, "it", timeout_s=0, every_s=0)


def test_an_object_is_applied_again_when_no_answer_came(monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[str] = []

    def request(_: ApiClient, method: str, path: str, body: object) -> dict[str, Any]:
        tries.append(f"{method} {path}")
        if len(tries) == 1:
            raise NoAnswerError("slow")
        return {}

    monkeypatch.setattr(ApiClient, "request", request)
    ApiClient.__new__(ApiClient).apply("/api/v1/x", {})
    assert len(tries) == 2
