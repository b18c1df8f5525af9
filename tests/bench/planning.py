"""Measures what a plan costs the planner, without I/O: the plan itself, and recording the round.

python -m tests.bench.planning

Policy and limits for 50 to 10,000 devices; and, for jobs that learn, the CPU time of taking up one
more round when there are 100 and of writing the file again.
"""

import time
from dataclasses import replace

import numpy as np

from lockstep_allocator.baselines import maximum
from lockstep_allocator.observation import EDGES_S
from lockstep_allocator.policy import SHIPPED, read_policy
from lockstep_allocator.records import MAX_ROUNDS, Record
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.wire import PlanRequest
from lockstep_operator.core.insight import ClientInsight, Insight
from lockstep_operator.core.plan import plan_round
from tests.allocator.fleets import fleet, recorded


def job(devices: int) -> FederatedJobSpec:
    """One group."""
    return FederatedJobSpec.model_validate(
        {
            "model": {"name": "mlp"}, "data": {"name": "fashion-mnist"},
            "training": {"rounds": 3, "localSteps": {"fixed": 40}},
            "allocation": {"policy": "ppo"}, "devices": [{"name": "d", "replicas": devices}],
        }
    )  # fmt: skip


def planning() -> None:
    """The plan."""
    policy = read_policy(SHIPPED)
    random = np.random.default_rng(0)
    for devices, times in ((50, 200), (500, 40), (10_000, 5)):
        names = [f"d-{i}" for i in range(devices)]
        request = PlanRequest.model_validate(
            {"round": 2, "clients": [
                {"client": name, "incarnation": "a", "examples": 1} for name in names
            ]}
        )  # fmt: skip
        insight = Insight(
            {
                name: ClientInsight(
                    slots_mbps=tuple(random.uniform(1, 20, len(EDGES_S) - 1)),
                    work_per_step=float(random.uniform(0.01, 0.05)), upload_mbit=8.0,
                )
                for name in names
            }
        )  # fmt: skip
        spec = job(devices)
        spent = []
        for _ in range(times):
            began = time.perf_counter()
            plan_round(spec, request, insight=insight, policy=policy)
            spent.append(time.perf_counter() - began)
        print(f"{devices} devices: median {1000 * np.median(spent):.1f} ms, "
              f"slowest {1000 * max(spent):.1f} ms")  # fmt: skip


def _again(record: Record, number: int) -> Record:
    """The same round under another number."""
    at_s = record.at_s + 10.0 * number
    return replace(record, round=number, at_s=at_s)


def recording() -> None:
    """Recording a round."""
    for devices in (8, 80, 400, 1000, 8000):
        experience, _ = recorded(fleet(1, devices, seed=1), maximum, 2)
        last = experience.records[-1]
        for number in range(1, MAX_ROUNDS + 1):
            experience = experience.with_round(_again(last, number))
        spent = []
        for number in range(MAX_ROUNDS + 1, MAX_ROUNDS + 4):
            began = time.process_time()
            experience = experience.with_round(_again(last, number))
            size = len(experience.to_bytes())
            spent.append(time.process_time() - began)
        print(f"{devices} devices: a round is recorded in {1000 * np.median(spent):.1f} ms of CPU, "
              f"file of {size} bytes")  # fmt: skip


def main() -> None:
    planning()
    recording()


if __name__ == "__main__":
    main()
