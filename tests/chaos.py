"""`make chaos`: jobs and many random kills; each finishes with the model of an undisturbed run.

    python -m tests.chaos [--seed 7] [--kills 30] [--mode split]

A deterministic job of each mode runs twice on a real cluster: while its cloud pod, its edges, its
devices and the operator are killed (SIGKILL to the container's process, and the pod is deleted, so
that no restart back-off helps), then undisturbed, for as many rounds. Which and when follows from
the seed; the first run ends a few rounds after its last kill, however long that took. The report
says how often rounds were repeated, what it cost in time, and whether the final weights are the
same, bit for bit.
"""

import argparse
import random
import secrets
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from lockstep_api import names
from lockstep_api.spec.tiers import Mode
from tests.cluster import api
from tests.e2e.running import (
    Json,
    apply,
    get,
    in_phase,
    installed,
    kill,
    model_hash,
    past_round,
    patch,
    query,
    small_job,
    watch,
)
from tests.support.ending import end_in_order
from tests.support.patience import PATIENCE_S, TIMEOUT

NAMESPACE = "chaos"
OPERATOR = "operator"
EDGE = "edge/"
ROUNDS_PER_KILL = 3
MOST_S_A_ROUND = 10
"""Of a job that nothing disturbs."""
EDGES = [{"name": "near", "replicas": 2, "cpu": "100m", "memory": "640Mi"}]
OF_MODE: dict[Mode, Json] = {
    Mode.FEDERATED: {},
    Mode.HIERARCHICAL: {"edges": EDGES},
    Mode.SPLIT: {
        "edges": EDGES,
        "model": {"name": "cnn", "args": {"channels": 4}, "cut": "3"},
        "clustering": {"clusters": 2, "everyRounds": 1_000_000},
        "distillation": {"enabled": True, "maxSamples": 100},
    },
}
"""What jobs have beside what those of mode federated have. Clusters are drawn once: a round that is
played without the planner has those of the last plan."""
OF_SPLIT_TRAINING: Json = {"batchSize": 8, "localSteps": {"fixed": 10}, "learningRate": 0.02}


@dataclass(frozen=True, slots=True)
class Kill:
    """One kill: what, and after which round."""

    victim: str
    """`cloud`, a device's client name, `edge/` and an edge's name, or `operator`."""
    after_round: int


def schedule(seed: int, kills: int, members: list[str]) -> list[Kill]:
    """Kills spread over the job: each within its own few rounds, of a random victim."""
    rng = random.Random(seed)
    victims = ["cloud", OPERATOR, *members]
    return [
        Kill(rng.choice(victims), ROUNDS_PER_KILL * i + rng.randint(1, ROUNDS_PER_KILL))
        for i in range(kills)
    ]


def members_of(job: Json) -> list[str]:
    """The devices and edges of a job, as victims."""
    groups = [("", one) for one in job["spec"]["devices"]]
    groups += [(EDGE, one) for one in job["spec"].get("edges", ())]
    return [f"{kind}{one['name']}-{i}" for kind, one in groups for i in range(one["replicas"])]


def kind_of(victim: str) -> str:
    """What is counted together."""
    if victim in {"cloud", OPERATOR}:
        return victim
    return "edge" if victim.startswith(EDGE) else "device"


def selector_of(job: str, victim: str) -> str:
    """The labels of a victim's pod."""
    kind, of_job = kind_of(victim), f"{names.JOB_LABEL}={job}"
    if kind == OPERATOR:
        return "app.kubernetes.io/component=operator"
    if kind == "cloud":
        return f"{of_job},{names.ROLE_LABEL}=cloud"
    group = victim.removeprefix(EDGE).rpartition("-")[0]
    return f"{of_job},{names.GROUP_LABELS[names.Role(kind)]}={group}"


def strike(job: str, victim: str) -> None:
    """SIGKILL once its container runs, maybe again after a kill before; then the pod goes, too.

    Returns when the pod is gone: one that is still going, in phase Running, is no victim.
    """
    words = ("-n", NAMESPACE, "wait", "pods", "-l", selector_of(job, victim), TIMEOUT)
    api.kubectl(*words, "--for=create")
    api.kubectl(*words, "--for=jsonpath={.status.containerStatuses[0].started}=true")
    listed = api.kubectl(
        "-n", NAMESPACE, "get", "pods", "-l", selector_of(job, victim), "-o",
        "jsonpath={.items[*].metadata.name}",
    ).split()  # fmt: skip
    kill(NAMESPACE, next(p for p in listed if victim == OPERATOR or p.endswith(_ordinal(victim))))


def _ordinal(victim: str) -> str:
    return "-0" if victim == "cloud" else f"-{victim.rpartition('-')[2]}"


def run_undisturbed(name: str, job: Json) -> Json:
    """Runs a job to its end."""
    apply(NAMESPACE, job)
    timeout_s = PATIENCE_S + MOST_S_A_ROUND * job["spec"]["training"]["rounds"]
    return watch(NAMESPACE, name, in_phase("Completed", "Failed"), timeout_s=timeout_s)


def reached_or_over(number: int) -> Callable[[Json], bool]:
    """Whether a job has finished so many rounds, or ended before."""
    reached, over = past_round(number), in_phase("Completed", "Failed")
    return lambda job: reached(job) or over(job)


def run_disturbed(name: str, job: Json, kills: list[Kill]) -> tuple[Json, Counter[str]]:
    """Runs a job without an end through its kills, and ends it.

    Returns the job at its end, and how often each kind was killed.
    """
    done: Counter[str] = Counter()
    apply(NAMESPACE, job)
    for number, each in enumerate(kills, 1):
        seen = watch(NAMESPACE, name, reached_or_over(each.after_round))
        if in_phase("Failed")(seen):
            break
        strike(name, each.victim)
        done[kind_of(each.victim)] += 1
        at = seen["status"]["round"]
        print(f"  {number:3}/{len(kills)} after round {at:3}: {each.victim}", flush=True)
    last = get(NAMESPACE, name)["status"]["round"] + ROUNDS_PER_KILL
    patch(NAMESPACE, name, {"training": {"rounds": last}})
    return watch(NAMESPACE, name, in_phase("Completed", "Failed")), done


def figure(name: str, series: str) -> int:
    """The greatest value that a series of a job's cloud pod had."""
    found = query(NAMESPACE, f'max_over_time({series}{{job="{name}"}}[2h])')
    return max((int(float(sample["value"][1])) for sample in found), default=0)


def report(seed: int, before: Json, after: Json, killed: Counter[str]) -> bool:
    """Prints what happened; whether all is well."""
    name = after["metadata"]["name"]
    status, undisturbed = after["status"], before["status"]
    lost_s = status["elapsedSeconds"] - undisturbed["elapsedSeconds"]
    kinds = ", ".join(f"{count} × {kind}" for kind, count in sorted(killed.items()))
    print(f"chaos seed {seed}: {status['phase']} {status['progress']} through {kinds}")
    print(f"  resumed from a checkpoint {figure(name, 'lockstep_resumes')} times")
    print(f"  finished rounds repeated: {figure(name, 'lockstep_rounds_repeated')}")
    if status.get("edges"):
        moved = figure(name, "lockstep_clusters_moved_total")
        print(f"  clusters that another edge did again, by one cloud pod at most: {moved}")
    print(
        f"  time: {status['elapsedSeconds']:.0f} s, undisturbed "
        f"{undisturbed['elapsedSeconds']:.0f} s: {lost_s:.0f} s lost"
    )
    if status["phase"] != "Completed":
        print(f"  the job did not finish: {status['conditions']}")
        return False
    models = [model_hash(NAMESPACE, job["metadata"]["name"]) for job in (before, after)]
    same = models[0] == models[1]
    print(f"  final weights {'equal' if same else 'DIFFER FROM'} those of the undisturbed run")
    return same


def job_of(name: str, mode: Mode, *, training: Json) -> Json:
    """A deterministic job of three devices, and two edges where the mode has any."""
    if mode is Mode.SPLIT:
        training = OF_SPLIT_TRAINING | training
    return small_job(name, training=training, mode=mode.value, **OF_MODE[mode])


def chaos(seed: int, kills: int, mode: Mode = Mode.FEDERATED) -> bool:
    """Both runs of a mode's job, and the report."""
    training = {"rounds": 100_000, "deterministic": True, "seed": seed % 1000}
    jobs = {name: job_of(name, mode, training=training) for name in ("undisturbed", "disturbed")}
    planned = schedule(seed, kills, members_of(jobs["disturbed"]))
    print(f"chaos seed {seed}, mode {mode}: {kills} kills", flush=True)
    with installed(NAMESPACE):
        after, killed = run_disturbed("disturbed", jobs["disturbed"], planned)
        rounds = after["status"]["round"]
        jobs["undisturbed"]["spec"]["training"]["rounds"] = rounds
        began = time.monotonic()
        before = run_undisturbed("undisturbed", jobs["undisturbed"])
        took_s = time.monotonic() - began
        print(f"  undisturbed run: {rounds} rounds, {took_s:.0f} s with start", flush=True)
        return report(seed, before, after, killed)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6))
    parser.add_argument("--kills", type=int, default=30, help="of each mode's job")
    parser.add_argument("--mode", type=Mode, choices=list(Mode), help="this mode only")
    given = parser.parse_args()
    end_in_order()
    modes = [given.mode] if given.mode else list(Mode)
    well = [chaos(given.seed, given.kills, mode) for mode in modes]
    return 0 if all(well) else 1


if __name__ == "__main__":
    sys.exit(main())
