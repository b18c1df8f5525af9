"""`make soak`: a small job of many rounds; nothing of any process may grow with them.

    python -m tests.soak [--rounds 500] [--mode split]

Runs a job on the embedded cluster and looks at its pods, the operator and Prometheus every few
rounds, from the machine that they all run on: memory, descriptors, threads, files in /tmp, what
lies on the job's volume. Past a warm-up a line is laid through each by least squares. It fails
where one rises faster than LIMITS say, or where a container or a pod was made anew.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from lockstep_api.names import JOB_LABEL
from lockstep_api.spec.tiers import Mode
from tests.chaos import job_of, reached_or_over
from tests.cluster import api
from tests.cluster.usage import Usage
from tests.e2e.running import (
    apply,
    in_phase,
    installed,
    pods_of,
    watch,
)
from tests.support.ending import end_in_order
from tests.support.patience import PATIENCE_S

NAMESPACE = "soak"
JOB = "soak"
PARTS_OF_CHART = "app.kubernetes.io/part-of=lockstep"
LOOKS = 60
"""In all, at the most."""
WARM_UP = 0.2
"""Of the rounds: caches fill, allocators find their size."""
MIB = 2.0**20
LIMITS: Mapping[str, float] = {
    "memory_bytes": 1 * MIB,
    "descriptors": 0.5,
    "threads": 0.5,
    "tmp_files": 0.5,
    "tmp_bytes": MIB / 16,
    "volume_bytes": 1.5 * MIB,
}
"""Most that a figure may rise in 100 rounds. The volume's is for the lines of history, which has a
bound of its own."""
OF_PROMETHEUS: Mapping[str, float] = {
    "memory_bytes": 6 * MIB,
    "descriptors": 2.0,
    "tmp_files": float("inf"),
    "tmp_bytes": float("inf"),
}
"""It keeps what it scraped in the last two hours in memory, and opens a file for a part of it now
and then; what it has in /tmp is not looked at."""


@dataclass(frozen=True, slots=True)
class Look:
    """A pod's figures at a round."""

    round: int
    usage: Usage
    uid: str = ""
    """The pod's."""


@dataclass(frozen=True, slots=True)
class Trend:
    """How a figure of a pod has gone."""

    pod: str
    figure: str
    per_100: float
    first: float
    last: float
    limit: float

    @property
    def grows(self) -> bool:
        """Whether it rose faster than it may."""
        return self.per_100 > self.limit

    def __str__(self) -> str:
        """A line of the table."""
        size = MIB if self.figure.endswith("_bytes") else 1.0
        unit = " MiB" if self.figure.endswith("_bytes") else ""
        told = (
            f"{self.pod:34} {self.figure.removesuffix('_bytes'):12} "
            f"{self.first / size:9.2f} → {self.last / size:9.2f}{unit}, "
            f"{self.per_100 / size:+.3f}{unit} in 100 rounds"
        )
        return f"{told}: GROWS (at most {self.limit / size:g}{unit})" if self.grows else told


def slope(at: Sequence[float], values: Sequence[float]) -> float:
    """By how much values rise with each unit of `at`: the line of least squares."""
    middle, mean = sum(at) / len(at), sum(values) / len(values)
    spread = sum((x - middle) ** 2 for x in at)
    if spread == 0:
        return 0.0
    return sum((x - middle) * (y - mean) for x, y in zip(at, values, strict=True)) / spread


def trends(pod: str, looks: Sequence[Look], *, rounds: int) -> Iterator[Trend]:
    """How each figure of a pod has gone since the warm-up."""
    kept = [look for look in looks if look.round >= WARM_UP * rounds]
    limits = {**LIMITS, **OF_PROMETHEUS} if pod.startswith("lockstep-prometheus") else LIMITS
    for figure, limit in limits.items():
        values = [float(getattr(look.usage, figure)) for look in kept]
        if values:
            per_round = slope([look.round for look in kept], values)
            yield Trend(pod, figure, 100 * per_round, values[0], values[-1], limit)


def looked_at(number: int) -> dict[str, Look]:
    """Every pod of job and chart as it is now, by name."""
    found = [*pods_of(NAMESPACE, f"{JOB_LABEL}={JOB}"), *pods_of(NAMESPACE, PARTS_OF_CHART)]
    unique = {pod["metadata"]["name"]: pod for pod in found}
    return {
        name: Look(number, api.usage(pod), pod["metadata"]["uid"]) for name, pod in unique.items()
    }


def replaced(looks: Mapping[str, Sequence[Look]]) -> list[str]:
    """Pods that were not there all the time, or whose name another had meanwhile."""
    times = max(map(len, looks.values()), default=0)
    return [
        pod
        for pod, seen in looks.items()
        if len(seen) < times or len({look.uid for look in seen}) > 1
    ]


def started_anew() -> list[str]:
    """Pods of which a container was started again."""
    found = [*pods_of(NAMESPACE, f"{JOB_LABEL}={JOB}"), *pods_of(NAMESPACE, PARTS_OF_CHART)]
    return [
        pod["metadata"]["name"]
        for pod in found
        if any(one["restartCount"] for one in pod["status"].get("containerStatuses", ()))
    ]


def soak(rounds: int, mode: Mode) -> bool:
    """The whole run; whether nothing grows."""
    looks: dict[str, list[Look]] = defaultdict(list)
    every = max(1, rounds // LOOKS)
    with installed(NAMESPACE):
        # The job has more rounds: the pods of one that is over are gone.
        apply(NAMESPACE, job_of(JOB, mode, training={"rounds": rounds + 100_000}))
        for number in range(every, rounds + 1, every):
            until, timeout_s = reached_or_over(number), PATIENCE_S + 30 * every
            seen = watch(NAMESPACE, JOB, until, timeout_s=timeout_s)
            if in_phase("Failed")(seen):
                raise AssertionError(f"the job failed: {seen['status']['conditions']}")
            for name, look in looked_at(seen["status"]["round"]).items():
                looks[name].append(look)
        anew = {*started_anew(), *replaced(looks)}
    return told(looks, rounds=rounds, anew=sorted(anew))


def told(looks: Mapping[str, Sequence[Look]], *, rounds: int, anew: Sequence[str]) -> bool:
    """Prints the table; whether all is well."""
    grow = False
    for pod in sorted(looks):
        for trend in trends(pod, looks[pod], rounds=rounds):
            print(f"  {trend}", flush=True)
            grow |= trend.grows
    for pod in anew:
        print(f"  {pod} was started anew")
    print(f"soak of {rounds} rounds: {'something grows' if grow else 'nothing grows'}")
    return not grow and not anew


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--mode", type=Mode, choices=list(Mode), default=Mode.FEDERATED)
    given = parser.parse_args()
    end_in_order()
    return 0 if soak(given.rounds, given.mode) else 1


if __name__ == "__main__":
    sys.exit(main())
