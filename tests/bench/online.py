"""Measures what learning on the job is worth: the same rounds with it and without it.

    python -m tests.bench.online --traces DIR

Jobs of 8 devices, 240 rounds in a closed loop, a trainer every 20 rounds. Writes
docs/benchmarks/online.md.
"""

import argparse
import os
import platform
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lockstep_allocator.experience import Experience
from lockstep_allocator.fleet import Fleet
from lockstep_allocator.policy import SHIPPED, Policy, read_policy
from lockstep_allocator.scenarios import Pool, draw_fleet, paper
from lockstep_allocator.traces import NamedTrace, read_traces, split_by_trace
from lockstep_allocator.training.online import OnlineSettings, improve
from lockstep_operator.core.learn import Verdict, judge
from tests.allocator.fleets import never_trained, recorded

PAGE = Path(__file__).parents[2] / "docs/benchmarks/online.md"
ROUNDS, DEVICES, JOBS, WEIGHT = 240, 8, 8, 3.0


@dataclass(frozen=True)
class Case:
    """Where a job begins, and what links it has."""

    name: str
    begins: Policy
    traces: list[NamedTrace]


def cases(folder: Path) -> list[Case]:
    """From traces that no policy was trained on, and from what a trained policy lacks."""
    shipped = read_policy(SHIPPED)
    known = shipped.training.known_sha256
    every = read_traces(folder)
    held_out = [
        trace
        for trace in split_by_trace(every, seed=shipped.training.split).test
        if trace.sha256 not in known
    ]
    usual = [trace for trace in held_out if trace.family in shipped.training.families]
    strange = [trace for trace in held_out if trace.family not in shipped.training.families]
    found = [Case("shipped, held-out traces of its families", shipped, usual)]
    if strange:
        found.append(Case("shipped, families that it never saw", shipped, strange))
    return [
        *found,
        Case("never trained (the equaliser), held-out traces", never_trained(shipped), usual),
    ]


def learning(begins: Policy, links: Fleet) -> np.ndarray:
    """Costs of the rounds of a job that learns."""
    has = [begins]

    def after(experience: Experience) -> Policy:
        experience = Experience.from_bytes(experience.to_bytes())
        offered = improve(has[-1], experience, settings=OnlineSettings()).policy
        found = judge(experience, has=has[-1], offered=offered, begun=begins)
        if found.verdict is not Verdict.KEPT:
            has.append(offered if found.verdict is Verdict.OFFERED else begins)
        return has[-1]

    return recorded(links, begins, ROUNDS, after=after)[1]


def main() -> None:
    """Measures all cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--traces", type=Path, required=True)
    chosen = parser.parse_args()
    lines = [
        "# Learning on the job, measured\n",
        f"Written by `python -m tests.bench.online` on {os.cpu_count()} cores, Python "
        f"{platform.python_version()}. {JOBS} jobs a line, {DEVICES} devices, scenario `paper`, "
        f"λ×{WEIGHT:g}, {ROUNDS} rounds in a closed loop, a trainer every 20 rounds; every job is "
        "played with and without learning, on the same links. Change of the mean cost of a round "
        "in %, ± one standard error over jobs.\n",
        "| begins with | rounds 21 to 240 | rounds 121 to 240 | worst job | best job |",
        "| --- | --- | --- | --- | --- |",
    ]
    for case in cases(chosen.traces):
        changes = []
        for seed in range(JOBS):
            print(f"{case.name}: job {seed + 1} of {JOBS}", flush=True)
            random = np.random.default_rng(seed)
            weight = np.full((1, 1), WEIGHT)
            pool = Pool.of(case.traces)
            links = draw_fleet(
                paper, pool, shape=(1, DEVICES), energy_weight=weight, random=random, alike=True
            )
            without = recorded(links, case.begins, ROUNDS)[1]
            costs = learning(case.begins, links)
            changes.append(
                [100 * (costs[start:].mean() / without[start:].mean() - 1) for start in (20, 120)]
            )
        whole, late = np.array(changes).T
        told = [f"{x.mean():+.1f} ± {x.std(ddof=1) / np.sqrt(JOBS):.1f}" for x in (whole, late)]
        lines.append(
            f"| {case.name} | {' | '.join(told)} | {whole.max():+.1f} | {whole.min():+.1f} |"
        )
    PAGE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
