"""Simulated jobs of split training: the bits of pods, seconds and joules by hand, who leaves."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from lockstep_api.orders import ClusterOrder
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.wire import RoundPlan
from lockstep_simulator.emulation import NO_OVERHEADS
from lockstep_simulator.half_work import HalfWork
from lockstep_simulator.simulated import SimulatedRound
from lockstep_simulator.simulation import settings_of, simulation
from lockstep_workers.learning.split_server import SplitServer
from lockstep_workers.learning.strategy import MODEL, ServerState
from lockstep_workers.learning.trial import tried
from lockstep_workers.split_frames import HEAD_BYTES
from tests.support.simulating import DATASET, group, rounds, setup, spec
from tests.support.split_clusters import play_cluster
from tests.support.split_job import orders_of

EDGES = [{"name": "e", "replicas": 2, "cpu": "1"}]
FRONT_S, BACK_S = 0.001, 0.0002
"""Core-seconds of an example in either half."""
STEPS, BATCH = 4, 8
FRONT_VALUES = 784 * 8 + 8


def halves(clients: Any, _cut: Any) -> HalfWork:
    """The same for all clients."""
    return HalfWork(dict.fromkeys(clients, FRONT_S), BACK_S)


def split(*groups: dict[str, Any], **more: Any) -> FederatedJobSpec:
    """A job of mode split with two edges, cut behind the hidden layer."""
    training = {"localSteps": {"fixed": STEPS}, "batchSize": BATCH} | more.pop("training", {})
    body: dict[str, Any] = {
        "mode": "split",
        "model": {"name": "mlp", "args": {"hidden": 8}, "cut": "2"},
        "edges": EDGES,
        "split": {"batches": "equal"},
        "training": training,
    }
    return spec(*(groups or [group("d", 4)]), **body | more)


def played(job: FederatedJobSpec, **more: Any) -> tuple[list[SimulatedRound], ServerState]:
    """The rounds of a job, and the state that they end with."""
    with simulation(setup(job, halves=halves, **more)) as done:
        every = list(done.rounds())
        return every, replace(done.server.state, vectors=dict(done.server.state.vectors))


def as_pods(job: FederatedJobSpec, plans: list[RoundPlan]) -> ServerState:
    """The state after these plans by the pure parts alone, in the order of the clusters."""
    settings = settings_of(setup(job))
    torch.set_num_threads(1)
    server = SplitServer(settings, tried(settings, DATASET))
    for plan in plans:
        assert plan.cut is not None
        server.cut_at(plan.cut)
        server.begin(plan.round, [one.client for one in plan.participants])
        orders: list[ClusterOrder] = orders_of(settings, plan, server=server, dataset=DATASET)
        for order in orders:
            done, pool = play_cluster(settings, order, server.state.vectors[MODEL], dataset=DATASET)
            server.add_halves(order.cluster, done, pool=pool)
        server.aggregate()
    return server.state


@pytest.mark.parametrize("update", ["step", "round"])
@pytest.mark.parametrize("wire", ["bfloat16", "float32"])
def test_a_deterministic_job_has_the_bits_of_its_pods(update: str, wire: str) -> None:
    how = {"enabled": True, "warmupRounds": 1}
    job = split(
        group("fast", 2),
        group("slow", 2, cpuAtMax="500m"),
        split={"frontUpdate": update, "wireDtype": wire},
        distillation=how,
        training={"deterministic": True, "momentum": 0.9},
    )
    done, state = played(job)
    expected = as_pods(job, [one.plan for one in done])
    assert state.vectors.keys() == {"model", "cloud"}
    for name, vector in expected.vectors.items():
        assert state.vectors[name].tobytes() == vector.tobytes()


def frame(values: int, *, labels: int = 0, size: int = 2) -> float:
    """Mbit of a frame."""
    return 8e-6 * (HEAD_BYTES + 4 * labels + size * values)


def test_a_step_lasts_as_long_as_its_slowest_device_and_the_back_half() -> None:
    """By hand: a device of half a core on a link of 2 Mbit/s, beside one of a core without any."""
    link = {"mbps": 2.0, "latencyMs": 10}
    job = split(
        group("fast"), group("slow", cpuAtMax="500m", uplink=link, downlink=link),
        clustering={"clusters": 1}, training={"rounds": 1},
    )  # fmt: skip
    ((done,), _) = played(job)
    cut = frame(BATCH * 8, labels=BATCH) / 2, frame(BATCH * 8) / 2
    fronts = 2 * frame(FRONT_VALUES, size=4) / 2
    step = BATCH * FRONT_S / 0.5 + sum(cut) + fronts + 4 * 0.01 + 2 * BATCH * BACK_S
    slow = next(one for one in done.report.clients if one.update.client == "slow-0")
    told = slow.update.model_copy(update={"train_loss": None})  # its edge knows that
    end = frame(0) / 2 + frame(len(told.to_json()), size=1) / 2 + 2 * 0.01
    assert done.report.seconds == pytest.approx(STEPS * step + end)
    assert slow.arrived_seconds == pytest.approx(done.report.seconds)
    moved = slow.update.moved
    assert moved is not None
    assert slow.update.compute_seconds == pytest.approx(STEPS * BATCH * FRONT_S / 0.5)
    passed = moved.up_seconds + moved.down_seconds + moved.wait_seconds
    all_s = slow.update.compute_seconds + passed
    assert all_s == pytest.approx(done.report.seconds - (end - frame(0) / 2 - 0.01))


def test_clusters_of_one_edge_share_its_time_for_back_halves() -> None:
    one = split(clustering={"clusters": 2}, edges=[{"name": "e", "cpu": "500m"}])
    two = split(clustering={"clusters": 2}, edges=[{"name": "e", "cpu": "500m", "replicas": 2}])
    shared, apart = (played(job)[0][0].report.seconds for job in (one, two))
    back_s = 2 * BATCH * BACK_S / 0.5
    assert apart == pytest.approx(STEPS * (BATCH * FRONT_S + back_s))
    assert shared == pytest.approx(apart + back_s)


def test_clusters_tell_what_they_did_and_the_cloud_what_it_distilled() -> None:
    done, _ = played(split(distillation={"enabled": True}))
    for one in done:
        samples = 4 * STEPS * BATCH
        assert sum(cluster.samples for cluster in one.report.clusters) == samples
        assert sum(c.back_cpu_seconds for c in one.report.clusters) == pytest.approx(
            samples * BACK_S
        )
        told = one.report.distillation
        assert told is not None
        assert told.samples == samples
        assert one.cloud_accuracy is not None
        assert one.divergence is not None
        assert one.divergence >= 0
        assert {update.update.samples for update in one.report.clients} == {STEPS * BATCH}


def test_measured_work_steers_frequencies() -> None:
    """Devices that would finish early are slowed once their work is known."""
    job = split(
        group("fast", 2), group("slow", 2, cpuAtMax="250m"),
        allocation={"policy": "equalize", "energyWeight": 0.001},
        split={"batches": "equal"},
    )  # fmt: skip
    done, _ = played(job)
    first, *_, last = (
        {one.client: one.frequency_ghz for one in each.plan.participants} for each in done
    )
    assert first["fast-0"] == 2.0
    assert last["fast-0"] < 1.0
    assert done[-1].report.seconds == pytest.approx(done[0].report.seconds, rel=0.05)
    joules = np.diff([0.0, *(one.energy_j for one in done)])
    assert joules[-1] < joules[0]


def test_who_fails_leaves_at_a_step_and_its_cluster_goes_on() -> None:
    done, _ = played(split(training={"rounds": 8}), failures=0.3)
    assert any(one.report.lost for one in done)
    for one in done:
        missed = sum(cluster.missed for cluster in one.report.clusters)
        assert (missed > 0) == bool(one.report.lost)
        assert len(one.report.clients) == 4 - len(one.report.lost)


def test_a_round_closes_at_its_deadline_with_the_steps_that_are_done() -> None:
    step = BATCH * FRONT_S + 4 * BATCH * BACK_S
    parts = {"quorum": 2, "roundDeadlineSeconds": 2.5 * step}
    job = split(clustering={"clusters": 1}, participation=parts, training={"rounds": 1})
    ((done,), _) = played(job)
    assert done.report.seconds == pytest.approx(3 * step)
    assert set(done.steps.values()) == {3}


def test_overheads_count_for_orders_and_results() -> None:
    overheads = replace(NO_OVERHEADS, transfer_s=0.05)
    plain = played(split(training={"rounds": 1}))[0][0].report.seconds
    more = played(split(training={"rounds": 1}), overheads=overheads)[0][0].report.seconds
    assert more == pytest.approx(plain + 0.1)


def test_work_of_the_whole_model_is_dealt_out_by_operations() -> None:
    """Behind the hidden layer of the perceptron there is next to nothing left."""
    (done, *_) = rounds(split())
    front = sum(one.update.cpu_seconds for one in done.report.clients)
    back = sum(one.back_cpu_seconds for one in done.report.clusters)
    assert front + back == pytest.approx(4 * STEPS * 0.02)
    assert front > 0.9 * (front + back)
