"""Measures how long a plan takes: policy and limits for 50 and for 10,000 devices, without I/O.

python -m tests.bench.planning
"""

import time

import numpy as np

from lockstep_allocator.observation import EDGES_S
from lockstep_allocator.policy import SHIPPED, read_policy
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.wire import PlanRequest
from lockstep_operator.core.insight import ClientInsight, Insight
from lockstep_operator.core.plan import plan_round


def job(devices: int) -> FederatedJobSpec:
    """One group."""
    return FederatedJobSpec.model_validate(
        {
            "model": {"name": "mlp"}, "data": {"name": "fashion-mnist"},
            "training": {"rounds": 3, "localSteps": {"fixed": 40}},
            "allocation": {"policy": "ppo"}, "devices": [{"name": "d", "replicas": devices}],
        }
    )  # fmt: skip


def main() -> None:
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


if __name__ == "__main__":
    main()
