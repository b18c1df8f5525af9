"""What a cluster does to a running job, done to it: docs/failure-modes.md says what must happen.

One job runs through all faults but those that need a job of their own; it is ended by lowering its
rounds before those begin. Faults of the whole cluster are made when no other test uses it.
"""

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import PIPE

import pytest

from tests.cluster import api
from tests.e2e.alerting import all_evaluated, ended, firing
from tests.e2e.running import (
    NAMESPACE,
    Json,
    apply,
    condition,
    get,
    in_phase,
    in_pod,
    lone_job,
    on_volume,
    past_round,
    patch,
    pods,
    query,
    rounds_are_planned,
    rounds_go_on,
    small_job,
    wait_for_event,
    watch,
)
from tests.e2e.scaling import away
from tests.support.patience import PATIENCE_S, TIMEOUT

pytestmark = pytest.mark.cluster

JOB = "tough"
CLOUD = f"{JOB}-cloud-0"

CORRUPT_NEWEST = """
import pathlib
before, newest = sorted(pathlib.Path("/data/checkpoints").glob("round-*.safetensors"))[-2:]
data = newest.read_bytes()
newest.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
print(*(int(path.stem.partition("-")[2]) for path in (before, newest)))
"""
UNPLANNED = """
import json
lines = open("/var/lib/lockstep/history.jsonl").read().splitlines()
print(sum(not json.loads(line)["planned"] for line in lines))
"""


@pytest.fixture(scope="module")
def running(lockstep: str) -> str:
    """A job that runs for as long as it is let, and has a budget of energy for a round or two."""
    telemetry = {"energyBudgetJoules": 0.1}
    apply(lockstep, small_job(JOB, training={"rounds": 100_000}, telemetry=telemetry))
    watch(lockstep, JOB, past_round(3))
    return JOB


def devices_are_back(job: Json) -> bool:
    """Whether all devices of the newest plan take part again."""
    status = job["status"]
    return status["clients"] == "3/3" and len(status["lastPlan"]["clients"]) == 3


def restarts(pod: Json) -> int:
    """Restarts of a pod's container."""
    count: int = pod["status"]["containerStatuses"][0]["restartCount"]
    return count


def test_every_rule_of_the_chart_is_evaluated_without_a_fault(running: str) -> None:
    unwell = {
        rule["name"]: rule["lastError"]
        for rule in all_evaluated(NAMESPACE)
        if rule["health"] != "ok"
    }
    assert unwell == {}


def test_an_alert_tells_that_a_budget_is_used_up_and_the_job_goes_on(running: str) -> None:
    alert = firing(NAMESPACE, "LockstepEnergyBudgetExceeded", namespace=NAMESPACE, job=JOB)
    assert " J of 100m J (spec.telemetry.energyBudgetJoules)" in alert["annotations"]["description"]
    assert rounds_go_on(NAMESPACE, JOB)["status"]["phase"] == "Running"


def test_a_killed_cloud_pod_goes_on_where_it_was(running: str) -> None:
    before = get(NAMESPACE, JOB)["status"]["round"]
    api.kill_container(NAMESPACE, CLOUD)
    kind, _, message = wait_for_event(NAMESPACE, JOB, "Resumed")
    assert kind == "Normal"
    resumed = int(message.removeprefix("the cloud pod goes on after round ").partition(";")[0])
    assert resumed >= before - 1, "at most one finished round is repeated"
    assert "finished rounds are done again" not in message or "; 1 finished" in message
    job = rounds_go_on(NAMESPACE, JOB)
    assert job["status"]["round"] > before
    watch(NAMESPACE, CLOUD, lambda pod: restarts(pod) == 1, kind="pod")
    wait_for_sample(f'lockstep_resumes{{job="{JOB}"}}', 1)


def test_a_killed_device_joins_the_next_round(running: str) -> None:
    (victim,) = (pod for pod in pods(NAMESPACE, JOB, "device") if "slow" in pod["metadata"]["name"])
    api.kill_container(NAMESPACE, victim["metadata"]["name"])
    watch(NAMESPACE, JOB, lambda job: len(job["status"]["lastPlan"]["clients"]) == 2)
    rounds_go_on(NAMESPACE, JOB)
    job = watch(NAMESPACE, JOB, devices_are_back)
    assert job["status"]["phase"] == "Running"


def test_a_device_that_runs_out_of_memory_joins_again(running: str) -> None:
    """The kernel ends it in the middle of whatever it does."""
    (victim,) = (pod for pod in pods(NAMESPACE, JOB, "device") if "fast" in pod["metadata"]["name"])
    name, before = victim["metadata"]["name"], restarts(victim)
    api.exhaust_memory(NAMESPACE, name)
    anew = watch(NAMESPACE, name, lambda pod: restarts(pod) == before + 1, kind="pod")
    assert anew["status"]["containerStatuses"][0]["lastState"]["terminated"]["exitCode"] == 137
    rounds_go_on(NAMESPACE, JOB)
    job = watch(NAMESPACE, JOB, devices_are_back)
    assert job["status"]["phase"] == "Running"


def test_a_deleted_stateful_set_comes_back(running: str) -> None:
    sets = api.kubectl(
        "-n", NAMESPACE, "get", "statefulsets", "-o", "name",
        "-l", f"lockstep.dev/job={JOB},lockstep.dev/device-group=fast",
    ).split()  # fmt: skip
    name, pod = sets[0].rpartition("/")[2], f"{JOB}-device-fast-0"
    before, old = uid_of(name, "statefulset"), uid_of(pod, "pod")
    api.kubectl("-n", NAMESPACE, "delete", *sets, "--wait")
    api.kubectl("-n", NAMESPACE, "wait", "--for=create", *sets, TIMEOUT)
    assert uid_of(name, "statefulset") != before
    watch(NAMESPACE, pod, lambda one: one["metadata"]["uid"] != old, kind="pod")
    rounds_go_on(NAMESPACE, JOB)
    watch(NAMESPACE, JOB, devices_are_back)


def uid_of(name: str, kind: str) -> str:
    """Tells an object from the one before it of its name."""
    uid: str = get(NAMESPACE, name, kind)["metadata"]["uid"]
    return uid


def test_a_deleted_cloud_pod_goes_on_where_it_was(running: str) -> None:
    before = get(NAMESPACE, JOB)["status"]["round"]
    uid = uid_of(CLOUD, "pod")
    api.kubectl("-n", NAMESPACE, "delete", "pod", CLOUD, "--wait=false")
    watch(NAMESPACE, CLOUD, lambda pod: pod["metadata"]["uid"] != uid, kind="pod")
    job = rounds_go_on(NAMESPACE, JOB, more=5)
    assert job["status"]["round"] >= before + 5


def test_a_killed_operator_costs_no_round(running: str) -> None:
    selector = "app.kubernetes.io/component=operator"
    pod = api.kubectl("-n", NAMESPACE, "get", "pods", "-l", selector, "-o", "name").strip()
    before = restarts(get(NAMESPACE, CLOUD, "pod"))
    api.kill_container(NAMESPACE, pod.rpartition("/")[2])
    job = rounds_go_on(NAMESPACE, JOB, more=5)
    assert job["status"]["phase"] == "Running"
    assert len(pods(NAMESPACE, JOB)) == 4
    assert restarts(get(NAMESPACE, CLOUD, "pod")) == before


FLOOD = """
import socket, sys, threading, time
from urllib.parse import urlsplit
from lockstep_workers.environment import Environment
here = Environment()
at = urlsplit(here.job().cloud_url)
address, context = socket.gethostbyname(at.hostname), here.trust().context()
def idle():
    return socket.create_connection((address, at.port), timeout=10)
def slow():
    made = context.wrap_socket(idle(), server_hostname=at.hostname)
    made.sendall(b"POST /v1/clients/slow-0/session HTTP/1.1\\r\\nhost: x\\r\\n")
    return made
held, drops = [idle() for _ in range(200)], []
until_told = threading.Thread(target=sys.stdin.read, daemon=True)
until_told.start()
print("in", flush=True)
while until_told.is_alive():
    try:
        held = held[5:] + [idle() for _ in range(5)]
        drops = drops or [slow() for _ in range(5)]
        for each in drops:
            each.sendall(b"a")
    except OSError:  # one has made room
        drops = []
    time.sleep(0.1)
"""
"""Connections that say nothing, not even in TLS, more and more of them, and heads by drops."""


@contextmanager
def flooded(pod: str) -> Iterator[None]:
    """A pod floods its job's cloud pod meanwhile."""
    words = ("-n", NAMESPACE, "exec", "-i", pod, "--", "python3", "-c", FLOOD)
    argv = (str(api.tools() / "kubectl"), f"--kubeconfig={api.kubeconfig()}", *words)
    with subprocess.Popen(argv, stdin=PIPE, stdout=PIPE, text=True) as flooding:
        assert flooding.stdin is not None
        assert flooding.stdout is not None
        try:
            assert flooding.stdout.readline() == "in\n"
            yield
            flooding.stdin.close()
            assert flooding.wait(PATIENCE_S) == 0
        finally:
            flooding.kill()


def test_a_flood_from_a_pod_that_policies_let_in_stops_no_round(running: str) -> None:
    """From a device's own address, as of others behind a node's NAT."""
    before = restarts(get(NAMESPACE, CLOUD, "pod"))
    with flooded(f"{JOB}-device-slow-0"):
        job = rounds_go_on(NAMESPACE, JOB, more=5)
    assert job["status"]["phase"] == "Running"
    assert restarts(get(NAMESPACE, CLOUD, "pod")) == before
    said = api.kubectl("-n", NAMESPACE, "logs", CLOUD)
    assert re.search(r"more than \d+ handshakes at once: one makes room", said)
    watch(NAMESPACE, JOB, devices_are_back)


def test_without_a_planner_rounds_go_on_with_the_last_plan(running: str) -> None:
    before = int(in_pod(NAMESPACE, CLOUD, UNPLANNED))
    with away("operator"):
        assert firing(NAMESPACE, "LockstepOperatorDown")["labels"]["severity"] == "critical"
        wait_for_sample(f'lockstep_round_planned{{job="{JOB}"}}', 0)
        wait_for_sample(f'increase(lockstep_round_seconds_count{{job="{JOB}"}}[15s]) > bool 0', 1)
    job = rounds_are_planned(NAMESPACE, JOB)
    assert int(in_pod(NAMESPACE, CLOUD, UNPLANNED)) > before
    assert job["status"]["phase"] == "Running"
    ended(NAMESPACE, "LockstepOperatorDown")


def wait_for_sample(promql: str, value: float) -> None:
    """Waits until a query has this one result: Prometheus has no watch, it scrapes each second."""
    until = time.monotonic() + PATIENCE_S
    found: list[float] = []
    while found != [value]:
        assert time.monotonic() < until, f"{promql} is {found}, never {value}"
        time.sleep(0.2)  # until the next scrape
        found = [float(sample["value"][1]) for sample in query(NAMESPACE, promql)]


@pytest.mark.alone
def test_a_restarted_apiserver_disturbs_no_round(running: str) -> None:
    uids = {pod["metadata"]["uid"] for pod in pods(NAMESPACE, JOB)}
    api.restart_apiserver()
    job = rounds_go_on(NAMESPACE, JOB, more=5)
    assert job["status"]["phase"] == "Running"
    assert {pod["metadata"]["uid"] for pod in pods(NAMESPACE, JOB)} == uids


@pytest.mark.alone
def test_a_node_that_is_not_ready_stops_no_round(running: str) -> None:
    """Without its kubelet a device's pod runs on; only its limit cannot be changed."""
    with api.kubelet_stopped("device"):
        api.kubectl("wait", "node/device", "--for=condition=Ready=Unknown", TIMEOUT)
        job = rounds_go_on(NAMESPACE, JOB)
        assert job["status"]["phase"] == "Running"
    job = watch(NAMESPACE, JOB, devices_are_back)
    assert rounds_go_on(NAMESPACE, JOB)["status"]["phase"] == "Running"


def test_fewer_rounds_end_the_job(running: str) -> None:
    done = get(NAMESPACE, JOB)["status"]["round"]
    patch(NAMESPACE, JOB, {"training": {"rounds": done}})
    job = watch(NAMESPACE, JOB, in_phase("Completed"))
    assert condition(job, "Complete")["reason"] == "RoundsCompleted"


def test_a_corrupt_checkpoint_falls_back_to_the_one_before(lockstep: str) -> None:
    """Damaged while the job is suspended: nobody writes another meanwhile."""
    apply(NAMESPACE, lone_job("damaged", training={"rounds": 100_000}))
    watch(NAMESPACE, "damaged", past_round(3))
    patch(NAMESPACE, "damaged", {"suspend": True})
    gone = ("wait", "pods", "-l", "lockstep.dev/job=damaged", "--for=delete", TIMEOUT)
    api.kubectl("-n", NAMESPACE, *gone)
    before, damaged = map(int, on_volume(NAMESPACE, "damaged-cloud", CORRUPT_NEWEST).split())
    patch(NAMESPACE, "damaged", {"suspend": False})
    kind, _, message = wait_for_event(NAMESPACE, "damaged", "CheckpointCorrupt")
    assert kind == "Warning"
    assert f"round-{damaged:010}.safetensors does not match its checksum" in message
    _, _, message = wait_for_event(NAMESPACE, "damaged", "Resumed")
    assert message.startswith(f"the cloud pod goes on after round {before};")
    api.kubectl("-n", NAMESPACE, "delete", "fj", "damaged", "--wait")


def test_a_device_that_never_comes_is_named_and_the_job_goes_on(lockstep: str) -> None:
    """A device without enough memory dies again and again; quorum and deadline do without it."""
    job = small_job(
        "incomplete",
        training={"rounds": 100_000},
        participation={"quorum": 2, "roundDeadlineSeconds": 20},
    )
    job["spec"]["devices"][2]["memory"] = "24Mi"
    apply(NAMESPACE, job)
    words = "goes on without slow-0"  # the reason is also that of clients a round has lost
    wait_for_event(NAMESPACE, "incomplete", "ClientsMissing", words=words)
    rounds = watch(NAMESPACE, "incomplete", past_round(5))["status"]["round"]
    patch(NAMESPACE, "incomplete", {"training": {"rounds": rounds}})
    done = watch(NAMESPACE, "incomplete", in_phase("Completed"))
    assert condition(done, "Complete")["reason"] == "RoundsCompleted"


def test_a_full_volume_stops_no_round(lockstep: str) -> None:
    """The job goes on, says what it could not write, and writes again when there is room."""
    job = lone_job("full", training={"rounds": 100_000})
    storage = {"size": "8Mi", "storageClassName": "small-full"}
    job["spec"]["cloud"] = {"cpu": "100m", "storage": storage}
    small = api.limited_volume(
        NAMESPACE, "full-cloud", storage_class="small-full", node="cloud", megabytes=8
    )
    with small as volume:
        apply(NAMESPACE, job)
        watch(NAMESPACE, "full", past_round(2))

        def fails(job: Json) -> bool:
            volume.fill()  # a checkpoint that goes may have made room meanwhile
            return condition(job, "Degraded").get("reason") == "CheckpointFailed"

        watch(NAMESPACE, "full", fails)
        kind, _, message = wait_for_event(NAMESPACE, "full", "CheckpointFailed")
        assert kind == "Warning"
        assert "cannot be written: No space left on device" in message
        seen = rounds_go_on(NAMESPACE, "full")
        assert condition(seen, "Degraded")["reason"] == "CheckpointFailed"
        alert = firing(NAMESPACE, "LockstepCheckpointFailing", namespace=NAMESPACE, job="full")
        assert re.search(
            r"newest that was written, of round \d+\.", alert["annotations"]["description"]
        )
        assert alert["annotations"]["summary"].startswith(f"Checkpoints of {NAMESPACE}/full ")
        volume.empty()
        watch(
            NAMESPACE, "full",
            lambda job: condition(job, "Degraded").get("reason") != "CheckpointFailed",
        )  # fmt: skip
        api.kubectl("-n", NAMESPACE, "delete", "fj", "full", "--wait")
