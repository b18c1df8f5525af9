"""What a step of split training takes with equal and with proportional batches, and what
frequencies save beside them: the planner's own decisions on drawn devices, nothing is run.

    python -m tests.bench.split_steps

`rows` gives the table to whoever writes a page. The scene is named there: cores and lines of 8
devices are drawn, all else is the built-in cnn cut after its first pooling.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import default_rng

from lockstep_api.spec import FederatedJobSpec
from lockstep_api.tiers import CutCandidate
from lockstep_api.wire import RoundPlan
from lockstep_operator.core.allocate import groups_by_client
from lockstep_operator.core.insight import ClientInsight, Insight
from lockstep_operator.core.offload import Splitting
from lockstep_operator.core.plan import plan_round
from lockstep_operator.core.split_steps import CORE_FLOPS, of_a_step, of_an_example
from lockstep_operator.core.tiers import offload_of, sites
from tests.support.tiered import CNN, asking

DEVICES = 8
SEEDS = 20
SCENE = (
    f"{DEVICES} devices in one cluster: cores lognormal (median 0.5, sigma 0.5), lines lognormal"
    " (median 40 Mbit/s, sigma 0.6) with 10 ms each way, an edge of 4 cores; batch 32, front"
    f" updated every step, {SEEDS} seeds"
)
CUT = CNN[2]


@dataclass(frozen=True, slots=True)
class Step:
    """A plan's step."""

    seconds: float
    """What it takes, back half included."""
    joules: float
    """Of all devices, by κ·cycles·f²."""


def job(seed: int, **changes: object) -> FederatedJobSpec:
    """The scene of a seed."""
    random = default_rng(seed)
    cores = np.clip(0.5 * np.exp(0.5 * random.standard_normal(DEVICES)), 0.05, 4.0)
    mbps = 40 * np.exp(0.6 * random.standard_normal(DEVICES))
    devices = [
        {
            "name": f"d{index}", "cpuAtMax": f"{round(1000 * own)}m",
            "frequency": {"minGHz": 0.2, "maxGHz": 2.0},
            **{way: {"mbps": float(line), "latencyMs": 10} for way in ("uplink", "downlink")},
        }
        for index, (own, line) in enumerate(zip(cores, mbps, strict=True))
    ]  # fmt: skip
    return FederatedJobSpec.model_validate(
        {
            "mode": "split", "model": {"name": "cnn", "cut": CUT.layer},
            "data": {"name": "fashion-mnist"}, "clustering": {"method": "none"},
            "training": {"rounds": 1, "batchSize": 32, "localSteps": {"fixed": 10}},
            "edges": [{"name": "e", "cpu": "4"}], "devices": devices, **changes,
        }
    )  # fmt: skip


def step_of(spec: FederatedJobSpec, candidate: CutCandidate = CUT) -> Step:
    """What the planner makes of a job."""
    known = {client: ClientInsight(work_per_example=candidate.front_flops / CORE_FLOPS)
             for client in groups_by_client(spec)}  # fmt: skip
    insight = Insight(known, cuts=[candidate])
    asked = asking(spec, edges=["e-0"], cuts=[candidate.model_dump(by_alias=True)])
    return _played(spec, plan_round(spec, asked, insight=insight), insight=insight)


def _played(spec: FederatedJobSpec, plan: RoundPlan, *, insight: Insight) -> Step:
    work = offload_of(spec, {one.client: one.steps for one in plan.participants}, insight=insight,
                      cut=insight.cuts[0])  # fmt: skip
    assert isinstance(work, Splitting)
    entries, site = plan.participants, sites(spec)["e-0"]
    clients = [one.client for one in entries]
    paced, batches = work.paces(clients, site), np.array([one.batch_size for one in entries])
    share = np.array([one.frequency_ghz for one in entries]) / 2.0
    compute_s = paced.core_s * batches / paced.cores / share
    sent_s = of_an_example(paced, work.load) - paced.core_s / paced.cores
    front_s = compute_s + batches * sent_s + of_a_step(paced, work.load)
    back_s = work.edge_seconds(clients, site) / work.steps
    cycles = paced.core_s * batches / paced.cores * 2e9
    joules = 1e-28 * cycles * (share * 2e9) ** 2
    return Step(float(front_s.max() + back_s), float(joules.sum()))


def ratios(wire: str, *, seeds: Sequence[int] = range(SEEDS)) -> Iterator[tuple[float, float]]:
    """Of each seed: a step with proportional batches over one with equal ones, and the energy of
    equalised frequencies over the highest ones at proportional batches."""
    for seed in seeds:
        split = {"wireDtype": wire}
        equal = step_of(job(seed, split=split | {"batches": "equal"}))
        proportional = step_of(job(seed, split=split))
        slowed = step_of(
            job(seed, split=split, allocation={"policy": "equalize", "energyWeight": 0})
        )
        yield proportional.seconds / equal.seconds, slowed.joules / proportional.joules


def rows() -> list[str]:
    """The table, in Markdown."""
    lines = [
        "| wire | step, proportional / equal batches | energy, equalised / highest frequencies |",
        "| --- | --- | --- |",
    ]
    for wire in ("float32", "bfloat16"):
        step, energy = np.array([*ratios(wire)]).T
        error = step.std(ddof=1) / np.sqrt(len(step))
        lines.append(f"| {wire} | {step.mean():.2f} ± {error:.2f} | {energy.mean():.2f} |")
    return lines


def main() -> None:
    """Print scene and table."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(SCENE, *rows(), sep="\n")


if __name__ == "__main__":
    main()
