"""`make faults`: one job through the faults that last; its model is that of an undisturbed run.

    python -m tests.long_faults [--only slow_apiserver] [--share 0.1]

A deterministic job runs on the embedded cluster while Kubernetes is slow and then away, while the
operator, and Prometheus, are gone, while a device runs out of memory and its node is drained. Then
it is let end, and an undisturbed job of as many rounds is played: the final weights must be the
same, bit for bit. The operator must never have been started anew. `make chaos` has the kills,
tests/e2e/test_faults the faults that are short. `--share` makes the long ones shorter.
"""

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

from lockstep_api.names import JOB_LABEL, ROLE_LABEL, client_pod, cloud_pod
from tests.cluster import api
from tests.cluster.faults import SlowWay
from tests.e2e.running import (
    Json,
    apply,
    get,
    in_phase,
    in_pod,
    installed,
    model_hash,
    past_round,
    patch,
    pods_of,
    rounds_go_on,
    small_job,
    watch,
)
from tests.support.ending import end_in_order
from tests.support.patience import TIMEOUT

NAMESPACE = "faults"
JOB = "patient"
OPERATOR = "deployment/lockstep-operator"
OPERATOR_PODS = "app.kubernetes.io/component=operator"
TRAINING: Json = {"deterministic": True, "seed": 7, "localSteps": {"fixed": 400}}
SLOW_CPU, FAST_CPU = "100m", "500m"
"""Of a device, while faults last and in the undisturbed run: for its model it is no
matter how long rounds take, and so it has caught up in a few minutes."""
SLOW_S = 5.0
"""What each call takes longer."""
MOST_S_A_ROUND = 20
"""Of a job that nothing disturbs."""
COUNTED = """
import json
lines = open("/var/lib/lockstep/history.jsonl").read().splitlines()
print(len(lines), sum(not json.loads(line)["planned"] for line in lines))
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """What faults are made with."""

    way: SlowWay
    share: float

    def last(self, seconds: float) -> None:
        """The time that a fault lasts."""
        time.sleep(seconds * self.share)


def slow_apiserver(stage: Stage) -> None:
    """Each call takes 5 s longer, for 8 minutes: for longer than a job may be without a pass."""
    stage.way.delay(SLOW_S)
    stage.last(480)
    stage.way.delay(0)


def apiserver_away(stage: Stage) -> None:
    """There is no apiserver for two minutes."""
    with api.apiserver_stopped():
        stage.last(120)


def operator_away(stage: Stage) -> None:
    """There is no operator for ten minutes."""
    _scale(OPERATOR, 0)
    stage.last(600)
    _scale(OPERATOR, 1)


def prometheus_gone(stage: Stage) -> None:
    """Rounds are planned from what reports say."""
    _scale("deployment/lockstep-prometheus", 0)
    stage.last(60)
    _scale("deployment/lockstep-prometheus", 1)


def device_out_of_memory(stage: Stage) -> None:
    """The kernel ends a device's worker."""
    del stage
    api.exhaust_memory(NAMESPACE, client_pod(JOB, "fast-0"))


def drained_node(stage: Stage) -> None:
    """All devices are evicted, and find no place for half a minute: the round waits for them."""
    of_devices = f"--pod-selector={JOB_LABEL}={JOB},{ROLE_LABEL}=device"
    api.kubectl("drain", "device", "--delete-emptydir-data", of_devices, TIMEOUT)
    try:
        stage.last(30)
    finally:
        api.kubectl("uncordon", "device")


FAULTS: dict[str, Callable[[Stage], None]] = {
    fault.__name__: fault
    for fault in (
        slow_apiserver,
        apiserver_away,
        operator_away,
        prometheus_gone,
        device_out_of_memory,
        drained_node,
    )
}
COST_NO_ROUND = {"slow_apiserver", "apiserver_away", "operator_away", "prometheus_gone"}
"""Rounds go on meanwhile."""


def _scale(what: str, replicas: int) -> None:
    api.kubectl("-n", NAMESPACE, "scale", what, f"--replicas={replicas}")
    api.kubectl("-n", NAMESPACE, "rollout", "status", what, TIMEOUT)


def _operator_uses(way: SlowWay) -> None:
    """The operator reaches the apiserver by this way from now on."""
    api.kubectl(
        "-n", NAMESPACE, "set", "env", OPERATOR,
        f"KUBERNETES_SERVICE_HOST={way.host}", f"KUBERNETES_SERVICE_PORT={way.port}",
    )  # fmt: skip
    api.kubectl("-n", NAMESPACE, "rollout", "status", OPERATOR, TIMEOUT)


def _rounds() -> tuple[int, int]:
    """Finished rounds, and those of them that no planner planned; asked of the cloud pod itself."""
    done, unplanned = map(int, in_pod(NAMESPACE, cloud_pod(JOB), COUNTED).split())
    return done, unplanned


def _is_planned(job: Json) -> bool:
    return bool(job["status"].get("lastPlan", {}).get("planned"))


def restarts(selector: str) -> int:
    """Restarts of all containers of some pods."""
    found = pods_of(NAMESPACE, selector)
    return sum(
        one["restartCount"] for pod in found for one in pod["status"].get("containerStatuses", ())
    )


def play(name: str, stage: Stage) -> list[str]:
    """Makes a fault, and waits until all is as before; what is wrong."""
    began, before = time.monotonic(), _rounds()
    FAULTS[name](stage)
    during = _rounds() if name in COST_NO_ROUND else before
    watch(NAMESPACE, JOB, _is_planned)
    rounds_go_on(NAMESPACE, JOB, more=5)
    after, again = _rounds(), restarts(OPERATOR_PODS)
    print(
        f"  {name}: {time.monotonic() - began:.0f} s, {after[0] - before[0]} rounds, of them "
        f"{after[1] - before[1]} without a planner; {again} restarts of the operator",
        flush=True,
    )
    wrong = [f"{name}: the operator was started anew {again} times"] if again else []
    if name in COST_NO_ROUND and during[0] == before[0]:
        wrong.append(f"{name}: no round was finished meanwhile")
    return wrong


def ended() -> int:
    """Lets the job end; its rounds."""
    patch(NAMESPACE, JOB, {"training": {"rounds": get(NAMESPACE, JOB)["status"]["round"]}})
    done = watch(NAMESPACE, JOB, in_phase("Completed", "Failed"))["status"]
    if done["phase"] != "Completed":
        raise AssertionError(f"the job did not end well: {done['conditions']}")
    return int(done["round"])


def job_of(name: str, rounds: int, *, cpu: str) -> Json:
    """A job whose devices all have so much of a core at most."""
    job = small_job(name, training=TRAINING | {"rounds": rounds})
    for group in job["spec"]["devices"]:
        group["cpuAtMax"] = cpu
    return job


def same_as_undisturbed(rounds: int) -> bool:
    """Whether an undisturbed job of so many rounds comes to the same model."""
    apply(NAMESPACE, job_of("undisturbed", rounds, cpu=FAST_CPU))
    over, timeout_s = in_phase("Completed", "Failed"), MOST_S_A_ROUND * rounds
    watch(NAMESPACE, "undisturbed", over, timeout_s=timeout_s)
    first, second = (model_hash(NAMESPACE, name) for name in (JOB, "undisturbed"))
    told = "equal" if first == second else "DIFFER FROM"
    print(f"  final weights of {rounds} rounds {told} those of an undisturbed run", flush=True)
    return first == second


def run(chosen: list[str], share: float) -> bool:
    """All of it; whether all is well."""
    wrong: list[str] = []
    with installed(NAMESPACE), api.slow_way() as way:
        _operator_uses(way)
        apply(NAMESPACE, job_of(JOB, 100_000, cpu=SLOW_CPU))
        watch(NAMESPACE, JOB, past_round(3))
        for name in chosen:
            wrong += play(name, Stage(way, share))
        rounds = ended()
        if not same_as_undisturbed(rounds):
            wrong.append("the models differ")
    for line in wrong:
        print(f"  {line}")
    return not wrong


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.long_faults", description=__doc__)
    parser.add_argument("--only", choices=FAULTS, action="append", help="this one; repeat")
    parser.add_argument("--share", type=float, default=1.0, help="of the time that faults last")
    given = parser.parse_args()
    end_in_order()
    return 0 if run(given.only or list(FAULTS), given.share) else 1


if __name__ == "__main__":
    sys.exit(main())
