"""Mode split with the real processes: whoever is killed, no bit of the model changes."""

import asyncio
import hashlib
import struct
from pathlib import Path

import pytest

from lockstep_api.settings import JobSettings
from lockstep_api.spec import Actuator, Distillation
from lockstep_api.tiers import ClusterPlan
from lockstep_api.wire import PlanRequest, RoundPlan
from tests.support.patience import PATIENCE_S
from tests.support.split_clusters import CUT, split_settings
from tests.support.split_job import play
from tests.wire.jobs import FakePlanner, free_port, serving, settings
from tests.wire.processes import Pods, prepare, with_edges


class SplitPlanner(FakePlanner):
    """Two clusters, in every round the same ones, whichever edges are there."""

    cores_milli = 100

    def plan(self, request: PlanRequest) -> RoundPlan:
        """The plan for a request."""
        plan = super().plan(request)
        clients = [one.client for one in plan.participants]
        chosen = [
            one.model_copy(
                update={
                    "batch_size": 6 + 2 * index, "actuator": Actuator.COOPERATIVE,
                    "cpu_milli": self.cores_milli,
                }
            )
            for index, one in enumerate(plan.participants)
        ]  # fmt: skip
        clusters = [
            ClusterPlan(
                cluster=f"c{i}", edge=f"e-{i}", fallbacks=[f"e-{1 - i}"], clients=clients[i::2]
            )
            for i in range(2)
        ]
        told = {"participants": chosen, "clusters": clusters, "cut": CUT}
        return plan.model_copy(update=told)


def split_job(*, devices: int = 4, **distillation: object) -> JobSettings:
    """A deterministic job with two edges that distils."""
    job = settings(
        cloud_port=free_port(), planner_port=free_port(), replicas=devices, deterministic=True
    )
    how = Distillation.model_validate({"enabled": True, "warmupRounds": 1} | distillation)
    return split_settings(with_edges(job, 2)).model_copy(update={"distillation": how})


@pytest.mark.slow
async def test_whoever_is_killed_changes_no_bit_of_model_and_cloud_half(tmp_path: Path) -> None:
    """A device, an edge and the cloud pod in the middle of a round, and that while it distils."""
    job, planner = split_job(cloudEpochs=20), SplitPlanner(rounds=5, steps=10)
    prepare(tmp_path, job)
    pods = Pods(tmp_path, job, watched=True)
    async with serving(planner.app(), int(job.planner_url.rpartition(":")[2])):
        await pods.start_all()
        await pods.said["d-1"].heard("split round begins", times=1)
        await pods.kill_and_start("d-1")
        await pods.said["e-0"].heard("cluster ordered", times=2)
        await pods.kill_and_start("e-0")
        await pods.said["cloud"].heard("distillation begins", times=3)
        await pods.kill_and_start("cloud")
        await pods.said["e-1"].heard("cluster ordered", times=5)
        await pods.kill_and_start("cloud")
        outcome = await asyncio.wait_for(asyncio.shield(planner.outcome), PATIENCE_S)
        await pods.end()
    assert outcome.result == "RoundsCompleted", outcome.message
    newest = {one.round: one for one in planner.requests}
    state = play(job, tmp_path / "datasets", plans=[planner.plan(one) for one in newest.values()])
    assert weights(tmp_path, "model") == digest(state.vectors["model"].tobytes())
    assert weights(tmp_path, "cloud-model") == digest(state.vectors["cloud"].tobytes())
    report = outcome.report
    assert report is not None
    assert report.lost == []
    assert report.distillation is not None
    assert report.distillation.samples == sum(one.samples for one in report.clusters)


def weights(folder: Path, name: str) -> str:
    """The digest of a final file's values, in the order of the module's parameters."""
    data = (folder / "data" / f"{name}.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    return digest(data[8 + size :])


def digest(values: bytes) -> str:
    """SHA-256."""
    return hashlib.sha256(values).hexdigest()
