"""`lockstep` on a real cluster: a job is looked at, suspended, resumed, waited for, deleted."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lockstep_api import series
from lockstep_api.names import CLI_MANAGER
from tests.cluster import api
from tests.e2e.program import cli, ended, on_a_terminal, plugin, start
from tests.e2e.running import (
    NAMESPACE,
    Json,
    apply,
    eventually,
    get,
    in_phase,
    lone_job,
    past_round,
    patch,
    pods,
    watch,
)

pytestmark = pytest.mark.cluster

NAME = "seen"
DEVICE = "slow-0"


def manifest(**spec: object) -> Json:
    return lone_job(NAME, training={"rounds": 100_000}, **spec)


@pytest.fixture(scope="module")
def running(lockstep: str) -> Iterator[str]:
    """A job without an end, which the tests of this module use in their order."""
    apply(NAMESPACE, manifest())
    watch(NAMESPACE, NAME, is_under_way)
    yield NAME
    api.kubectl("-n", NAMESPACE, "delete", "fj", NAME, "--ignore-not-found", "--wait")


def is_under_way(job: Json) -> bool:
    """Whether some rounds are over, and the device is ready and has its limit."""
    if not past_round(3)(job) or job["status"]["clients"] != "1/1":
        return False
    return all(one["applied"] for one in job["status"]["lastPlan"]["clients"])


def test_a_job_is_looked_at(running: str) -> None:
    listed = cli("list")
    assert (listed.code, listed.err) == (0, "")
    assert re.search(rf"^{NAME} +Running +\d+/100000 +1/1 +\d+\.\d+% ", listed.out, re.MULTILINE)
    assert f"federatedjob.lockstep.dev/{NAME}" in cli("list", "-A", "-o", "name").out.split()
    described = cli("describe", NAME)
    assert described.code == 0
    assert f"cloud  Running  {NAME}-cloud-0 on cloud" in described.out
    assert re.search(rf"{DEVICE}  Running  \d\.\d\d GHz = \d+m", described.out)
    assert re.search(r"^Accepted +True +Valid", described.out, re.MULTILINE)
    assert re.search(r"Normal +Running +federatedjob/seen", cli("events", NAME).out)
    logs = cli("logs", NAME, "--tail", "1", "--tier", "cloud")
    assert (logs.code, logs.out.count("\n")) == (0, 1)
    assert logs.out.startswith('cloud | {"')
    missing = cli("describe", "unseen")
    assert (missing.code, missing.out) == (5, "")
    assert f"no job unseen in namespace {NAMESPACE}: there are " in missing.err


def test_figures_of_devices_come_through_the_apiserver(running: str) -> None:
    uplink = series.UPLINK_MBITS_PER_SECOND.queried
    eventually(NAMESPACE, f'{uplink}{{job="{NAME}",client="{DEVICE}"}} > 0')
    told = cli("devices", NAME, "-o", "json")
    assert (told.code, told.err) == (0, "")
    (device,) = json.loads(told.out)
    assert (device["name"], device["state"], device["plan"]["applied"]) == (DEVICE, "Running", True)
    assert device["measured"]["mbps"] > 0
    assert device["measured"]["joules"] > 0
    assert device["pod"]["node"] == pods(NAMESPACE, NAME, "device")[0]["spec"]["nodeName"]


def test_kubectl_runs_it_as_its_plugin(running: str, tmp_path: Path) -> None:
    done = subprocess.run(
        ("kubectl", "lockstep", "list", "-n", NAMESPACE, "-o", "name"),
        env=plugin(tmp_path), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert f"federatedjob.lockstep.dev/{NAME}" in done.stdout.split()


def test_a_terminal_shows_a_screen_that_goes_on(running: str) -> None:
    """Until Ctrl-C, which is quiet."""
    round_now = get(NAMESPACE, NAME)["status"]["round"]

    def enough(drawn: str) -> bool:
        rounds = [int(found) for found in re.findall(r"(\d+)/100000", drawn)]
        return len({number for number in rounds if number > round_now}) >= 2

    done = on_a_terminal("watch", NAME, until=enough)
    assert (done.code, done.err) == (130, "")
    assert "━" in done.out or "─" in done.out
    assert re.search(rf"{DEVICE} +Running +\d\.\d\d +\d+m", done.out)


def test_a_suspension_is_by_a_manager_of_its_own_and_manifests_win(running: str) -> None:
    assert cli("suspend", NAME).out.startswith(f"{NAME} suspended")
    job = watch(NAMESPACE, NAME, in_phase("Suspended"))
    owners = {
        one["manager"]
        for one in json.loads(
            api.kubectl("-n", NAMESPACE, "get", "fj", NAME, "-o", "json", "--show-managed-fields")
        )["metadata"]["managedFields"]
        if "f:suspend" in one["fieldsV1"].get("f:spec", {})
    }
    assert owners == {CLI_MANAGER}

    apply(NAMESPACE, manifest(suspend=False))  # kubectl apply wins
    assert not get(NAMESPACE, NAME)["spec"]["suspend"]
    assert cli("suspend", NAME).code == 0
    resumed = cli("resume", NAME)
    assert (resumed.code, resumed.out) == (0, f"{NAME} resumed\n")
    assert get(NAMESPACE, NAME)["spec"]["suspend"] is False
    words = ("apply", "--server-side", "--field-manager=gitops", "-f", "-")
    api.kubectl("-n", NAMESPACE, *words, stdin=yaml.safe_dump(only_suspend(False)))
    watch(NAMESPACE, NAME, past_round(job["status"]["round"] + 1))


def only_suspend(value: bool) -> Json:
    """What a server-side applier says who has an opinion of that alone."""
    whole = manifest()
    return {**whole, "spec": {"suspend": value}}


def test_logs_and_watch_end_with_the_job_and_nothing_is_left(running: str) -> None:
    logs = start("logs", NAME, "--follow", "--tail", "0", "--tier", "cloud")
    waiting = start("watch", NAME, "--wait", "--timeout", "10m")
    assert waiting.stdout is not None
    assert logs.stdout is not None
    first = waiting.stdout.readline()
    assert f"{NAME}  Running  round " in first
    assert logs.stdout.readline().startswith('cloud | {"'), "it follows"
    now = get(NAMESPACE, NAME)["status"]["round"]
    patch(NAMESPACE, NAME, {"training": {"rounds": now + 5}})
    watched, followed = ended(waiting), ended(logs)
    last = get(NAMESPACE, NAME)["status"]["round"]
    assert last >= now + 5
    assert watched.code == 0
    assert watched.err.startswith(f"{NAME} completed: ")
    assert f"{NAME}  Completed  round {last}/{last}" in watched.out
    assert followed.code == 0
    assert f'"round": {last}, ' in followed.out
    after = cli("devices", NAME)
    assert after.code == 0
    assert re.search(rf"^{DEVICE} .* J$", after.out, re.MULTILINE)
    assert cli("delete", NAME).code == 2
    deleted = cli("delete", NAME, "--yes", "--wait")
    assert (deleted.code, deleted.out) == (0, f"{NAME} deleted\n")
    left = ("get", "fj,pods,pvc", "-l", f"lockstep.dev/job={NAME}", "-o", "name")
    assert api.kubectl("-n", NAMESPACE, *left) == ""
