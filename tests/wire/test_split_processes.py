"""Mode split with the real processes: whoever is killed, no bit of the model changes."""

import asyncio
import hashlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lockstep_api.settings import JobSettings
from lockstep_api.spec import Actuator, Distillation, Model, WireDtype
from lockstep_api.tiers import ClusterPlan
from lockstep_api.wire import Outcome, PlanRequest, RoundPlan
from lockstep_workers.data import load_dataset
from lockstep_workers.learning.client import deal, sgd_of
from lockstep_workers.models import build_model
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_port
from tests.support.split_clusters import CUT, split_settings
from tests.support.split_job import play
from tests.support.split_training import SEED, Scene, central
from tests.wire.jobs import FakePlanner, serving, settings
from tests.wire.processes import Pods, prepare, served, with_edges
from tests.wire.signing import with_tls


@dataclass
class SplitPlanner(FakePlanner):
    """In every round the same clusters, one an edge, whichever edges are there."""

    clusters: int = 2
    cores_milli: int = 100
    cut: str = CUT

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
        edges = [f"e-{i}" for i in range(self.clusters)]
        clusters = [
            ClusterPlan(
                cluster=f"c{i}", edge=edge, fallbacks=[one for one in edges if one != edge],
                clients=clients[i :: self.clusters],
            )
            for i, edge in enumerate(edges)
        ]  # fmt: skip
        told = {"participants": chosen, "clusters": clusters, "cut": self.cut}
        return plan.model_copy(update=told)


def a_job(*, devices: int, edges: int, seed: int = 0, **split: Any) -> JobSettings:
    """A deterministic job in mode split."""
    job = settings(
        cloud_port=free_port(), planner_port=free_port(), replicas=devices, deterministic=True,
        seed=seed,
    )  # fmt: skip
    return split_settings(with_edges(job, edges), **split)


def distilling(job: JobSettings, **how: object) -> JobSettings:
    """The same job with distillation."""
    made = Distillation.model_validate({"enabled": True, "warmupRounds": 1} | how)
    return job.model_copy(update={"distillation": made})


async def played(pods: Pods, job: JobSettings, planner: SplitPlanner) -> Outcome:
    """How a job ends whose pods nobody disturbs."""
    async with serving(planner.app(), int(job.planner_url.rpartition(":")[2])):
        await pods.start_all()
        outcome = await asyncio.wait_for(asyncio.shield(planner.outcome), PATIENCE_S)
        await pods.end()
    return outcome


@pytest.mark.slow
async def test_whoever_is_killed_changes_no_bit_of_model_and_cloud_half(tmp_path: Path) -> None:
    """A device, an edge and the cloud pod in the middle of a round, and that while it distils.

    All over TLS.
    """
    job = with_tls(distilling(a_job(devices=4, edges=2), cloudEpochs=8))
    planner = SplitPlanner(rounds=5, steps=6, cores_milli=300)
    prepare(tmp_path, job)
    pods = Pods(tmp_path, job, watched=True)
    async with served(planner, job):
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


@pytest.mark.slow
async def test_one_cluster_of_all_devices_is_central_training(tmp_path: Path) -> None:
    job = a_job(devices=2, edges=1, seed=SEED, wire_dtype=WireDtype.FLOAT32)
    planner = SplitPlanner(rounds=2, steps=10, clusters=1)
    prepare(tmp_path, job)
    outcome = await played(Pods(tmp_path, job), job, planner)
    assert outcome.result == "RoundsCompleted", outcome.message
    dataset = load_dataset(job.data, tmp_path / "datasets")
    parts = deal(job, dataset.train)
    batches = {
        one.client: one.batch_size or 1 for one in planner.plan(planner.requests[0]).participants
    }
    scene = Scene(
        module=lambda: build_model(job.model, seed=SEED), cut=CUT, batches=batches,
        clients={
            name: dataset.train.part(part) for name, part in zip(job.clients(), parts, strict=True)
        },
        sgd=sgd_of(job),
    )  # fmt: skip
    data = (tmp_path / "data" / "model.safetensors").read_bytes()
    expected = central(scene, rounds=2, steps=10)
    found = np.frombuffer(data[-expected.nbytes :], np.float32)
    start = scene.model().vector.numpy()
    print(f"largest difference {np.abs(found - expected).max():.1e}")
    assert np.allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected - start).max())
    assert not np.allclose(found, start, rtol=1e-3, atol=1e-3)


HALVES = """
import os
import torch


def front():
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(784, 8))


class Back(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(8, 10)

    def forward(self, values):
        if "-edge-" in os.environ["LOCKSTEP_POD"]:
            raise RuntimeError("it works everywhere else")
        return self.layer(values)


def back():
    return Back()
"""


@pytest.mark.slow
async def test_a_back_half_that_fails_at_its_edge_fails_the_job_in_its_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "halves_of_a_user.py").write_text(HALVES)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("LOCKSTEP_POD", "job-cloud-0")
    own = Model(front="halves_of_a_user:front", back="halves_of_a_user:back")
    job = a_job(devices=2, edges=1).model_copy(update={"model": own})
    planner = SplitPlanner(rounds=2, steps=2, clusters=1, cut="front")
    prepare(tmp_path, job)
    outcome = await played(Pods(tmp_path, job), job, planner)
    assert outcome.result == "Failed"
    assert "the back half, in step 1 of round 1, cluster c0 at edge e-0, raised" in outcome.message
    assert "it works everywhere else" in outcome.message
    assert "tried 3 times" in outcome.message
