"""The server of split training: means over clusters, the cloud's half, what does not fit."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from lockstep_api.sessions import Refusal
from lockstep_api.settings import JobSettings, job_settings
from lockstep_workers.data import Dataset
from lockstep_workers.errors import InvalidJob, RefusedUpdate
from lockstep_workers.learning.client import Client, sgd_of
from lockstep_workers.learning.cluster_training import (
    ClusterTrained,
    ClusterTraining,
    HalfVectors,
    Member,
)
from lockstep_workers.learning.evaluation import evaluate
from lockstep_workers.learning.front import FrontHalf, front_half
from lockstep_workers.learning.parameters import flatten
from lockstep_workers.learning.pool import Pool
from lockstep_workers.learning.split_server import CLOUD, SplitServer
from lockstep_workers.learning.strategy import MODEL
from lockstep_workers.learning.trial import Loaded
from tests.support.clients import client_of
from tests.support.split_training import some_examples
from tests.support.tiered import group, split_job

CLASSES, FEATURES = 4, 12
OWN_CLOUD = """
from torch import nn

def build(hidden, **_):
    return nn.Sequential(nn.BatchNorm1d(hidden), nn.Linear(hidden, 4))
"""
CLUSTERS = {"c0": ("d-0", "d-3"), "c1": ("d-1",), "c10": ("d-2",)}
DISTILS = {"enabled": True, "warmupRounds": 0}


def dataset() -> Dataset:
    examples = some_examples(120, shape=(FEATURES,), seed=1, classes=CLASSES)
    return Dataset(examples, some_examples(50, shape=(FEATURES,), seed=2, classes=CLASSES), CLASSES)


def settings(**more: Any) -> JobSettings:
    training = {
        "rounds": 9, "batchSize": 6, "learningRate": 0.1, "momentum": 0.9,
        "localSteps": {"fixed": 3}, "deterministic": more.pop("deterministic", False),
    }  # fmt: skip
    model = {"name": "mlp", "args": {"hidden": 8, "inputs": FEATURES, "classes": CLASSES}}
    partition = {"scheme": "dirichlet", "alpha": 0.5}
    spec = split_job(
        group(replicas=4),
        **{
            "model": model, "training": training,
            "data": {"name": "fashion-mnist", "partition": partition}, **more,
        },
    )  # fmt: skip
    return job_settings(
        spec, namespace="n", job="j", uid="u", created_at=0.0, cloud_url="http://cloud",
        planner_url="http://planner", cpu_watts=10.0,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Job:
    """A server that is cut after layer 2, and clients."""

    server: SplitServer
    clients: Mapping[str, Client]
    settings: JobSettings

    def fronts(self) -> dict[str, FrontHalf]:
        update = self.settings.split.front_update if self.settings.split else None
        assert update is not None
        return {name: front_half(one, "2", update=update) for name, one in self.clients.items()}

    def cluster(self, members: Sequence[str], *, number: int, place: int) -> tuple[Any, Pool]:
        """(what it made, its last step's batch)."""
        server, fronts = self.server, self.fronts()
        training = ClusterTraining(
            server.cut.halves,
            server.vectors,
            members=[Member(c, len(self.clients[c].examples), 6) for c in members],
            cut_shape=server.cut.shape,
            sgd=sgd_of(self.settings),
            seed=(0, number, place),
        )
        for step in range(3):
            for client in members:
                fronts[client].use(training.front)
                values, labels = fronts[client].forward(number, step, batch_size=6)
                rows = training.rows(client)
                training.activations[rows], training.labels[rows] = values, labels
            gradients = training.step(members).gradients
            for client in members:
                part = fronts[client].backward(gradients[training.rows(client)])
                training.add_front(client, part)
            training.finish_step(members)
        return training.result(), training.batch(members)

    def play(
        self, number: int, *, order: Sequence[str] = tuple(CLUSTERS), overwritten: bool = False
    ) -> list[ClusterTrained]:
        """A round whose clusters end in this order; what they gave may be overwritten then."""
        server = self.server
        server.begin(number, list(self.clients))
        made = {
            name: self.cluster(members, number=number, place=place)
            for place, (name, members) in enumerate(CLUSTERS.items())
        }
        for name in order:
            done, pool = made[name]
            server.add_halves(name, done, pool=pool)
            if overwritten:
                for lent in (pool.activations, pool.labels, pool.weights):
                    lent.fill(0)
        server.aggregate()
        return [done for done, _ in made.values()]


def started(**more: Any) -> Job:
    job, data = settings(**more), dataset()
    clients = {name: client_of(job, name, dataset=data) for name in job.clients()}
    module = client_of(job, "d-0", dataset=data).model.module
    held = {name: len(client.examples) for name, client in clients.items()}
    server = SplitServer(job, Loaded(module, data, held))
    server.cut_at("2")
    return Job(server, clients, job)


def trained(front: Any, back: Any, *, examples: int = 3) -> ClusterTrained:
    vectors = HalfVectors(np.asarray(front, np.float32), np.asarray(back, np.float32))
    return ClusterTrained(vectors, ("d-0",), examples, 1, 6, 0, 0.1)


# -- a round ---------------------------------------------------------------------------------------


def test_the_model_is_the_mean_of_the_halves_by_the_examples_of_their_clients() -> None:
    job = started()
    made = job.play(1)
    held = [sum(len(job.clients[c].examples) for c in members) for members in CLUSTERS.values()]
    assert [one.examples for one in made] == held
    assert len(set(held)) > 1
    fronts = sum(n * one.vectors.front.astype(float) for n, one in zip(held, made, strict=True))
    backs = sum(n * one.vectors.back.astype(float) for n, one in zip(held, made, strict=True))
    wanted = np.concatenate([fronts, backs]) / sum(held)
    assert job.server.state.vectors[MODEL] == pytest.approx(wanted, rel=1e-5, abs=1e-7)
    assert job.server.vectors.front == pytest.approx(fronts / sum(held), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("distils", [{}, {"distillation": DISTILS}])
def test_the_order_in_which_clusters_end_changes_no_bit_of_a_deterministic_job(
    distils: dict[str, Any],
) -> None:
    states = []
    for order in (("c0", "c1", "c10"), ("c10", "c0", "c1")):
        job = started(deterministic=True, **distils)
        job.play(1, order=order)
        job.play(2, order=order)
        states.append({n: v.tobytes() for n, v in job.server.state.vectors.items()})
    assert states[0] == states[1]


def test_rounds_make_the_model_better() -> None:
    """What is taught is what the module evaluates."""
    job = started()
    train = dataset().train
    before = job.server.evaluate(train)
    for number in range(1, 9):
        job.play(number)
    after = job.server.evaluate(train)
    assert after.loss < before.loss - 0.05


def test_a_state_goes_on_where_another_server_ended() -> None:
    """What a checkpoint holds is all that a later round needs."""
    whole = started(deterministic=True, distillation=DISTILS)
    for number in (1, 2, 3):
        whole.play(number)
    first = started(deterministic=True, distillation=DISTILS)
    first.play(1)
    second = started(deterministic=True, distillation=DISTILS)
    second.server.go_on_from(first.server.state)
    for number in (2, 3):
        second.play(number)
    wanted = whole.server.state.vectors
    found = second.server.state.vectors
    assert {n: v.tobytes() for n, v in found.items()} == {n: v.tobytes() for n, v in wanted.items()}


# -- distillation ----------------------------------------------------------------------------------


def test_both_halves_learn_from_the_rounds_activations_and_the_front_stays() -> None:
    plain, distilling = started(), started(distillation=DISTILS)
    plain.play(1)
    start = distilling.server.state.vectors[CLOUD].copy()
    distilling.play(1)
    found, without = distilling.server.vectors, plain.server.vectors
    assert (found.front == without.front).all()
    assert (found.back != without.back).any()
    assert (distilling.server.state.vectors[CLOUD] != start).any()


def test_the_memory_of_a_result_may_be_used_again_once_it_is_taken() -> None:
    """As the next result of the same size does: labels would be those of another cluster."""
    one, other = started(distillation=DISTILS), started(distillation=DISTILS)
    one.play(1)
    other.play(1, overwritten=True)
    for name, vector in one.server.state.vectors.items():
        assert (vector == other.server.state.vectors[name]).all(), name


def test_a_distillation_is_told_with_the_clouds_accuracy() -> None:
    job = started(distillation=DISTILS)
    job.play(1)
    test = dataset().test
    result = job.server.evaluate(test)
    told = job.server.distillation(seconds=1.5)
    assert told is not None
    assert (told.samples, told.seconds) == (4 * 6, 1.5)
    cut = job.server.cut
    assert cut.cloud is not None
    assert (cut.cloud.vector.numpy() == job.server.state.vectors[CLOUD]).all()
    chain = nn.Sequential(cut.halves.front, cut.cloud.module)
    assert told.cloud_accuracy == evaluate(flatten(chain), test).accuracy
    whole = nn.Sequential(cut.halves.front, cut.halves.back)
    assert result == evaluate(flatten(whole), test)


def test_the_last_state_stays_as_it_was_when_a_round_is_settled() -> None:
    """A round that cannot be settled goes back to it."""
    job = started(distillation=DISTILS)
    job.play(1)
    kept = job.server.state
    before = {name: vector.copy() for name, vector in kept.vectors.items()}
    job.server.begin(2, list(job.clients))
    kept = job.server.state
    for place, (name, members) in enumerate(CLUSTERS.items()):
        done, pool = job.cluster(members, number=2, place=place)
        job.server.add_halves(name, done, pool=pool)
    job.server.aggregate()
    assert all((kept.vectors[name] == before[name]).all() for name in before)
    job.server.go_on_from(kept)
    assert (job.server.vectors.front == before[MODEL][: job.server.cut.halves.n_front]).all()


def test_without_activations_a_round_is_aggregated_and_nothing_is_distilled() -> None:
    job = started(deterministic=True, distillation=DISTILS)
    server = job.server
    server.begin(1, list(job.clients))
    done, _ = job.cluster(["d-0"], number=1, place=0)
    server.add_halves("c0", done)
    server.aggregate()
    assert (server.vectors.back == done.vectors.back).all()
    assert server.distillation(seconds=0) is None


def test_activations_of_an_earlier_round_are_forgotten() -> None:
    job = started(distillation=DISTILS)
    done, pool = job.cluster(["d-0"], number=1, place=0)
    job.server.begin(1, list(job.clients))
    job.server.add_halves("c0", done, pool=pool)
    job.server.begin(1, list(job.clients))  # planned anew
    job.server.add_halves("c0", done)
    job.server.aggregate()
    assert job.server.distillation(seconds=0) is None


def test_what_the_clouds_half_has_learnt_it_keeps_for_the_next_round() -> None:
    """A round in which nobody learns moves nothing: it begins where the last one ended."""
    job = started(distillation=DISTILS)
    job.play(1)
    learnt = job.server.state.vectors[CLOUD].copy()
    still = started(distillation={**DISTILS, "edgeEpochs": 0, "cloudEpochs": 0})
    still.server.go_on_from(job.server.state)
    still.play(2)
    assert (still.server.state.vectors[CLOUD] == learnt).all()


def test_an_empty_pool_is_as_none() -> None:
    job = started(distillation=DISTILS)
    done, pool = job.cluster(["d-0"], number=1, place=0)
    job.server.begin(1, list(job.clients))
    job.server.add_halves("c0", done, pool=pool.part(np.arange(0)))
    job.server.aggregate()
    assert job.server.distillation(seconds=0) is None


def test_a_job_that_does_not_distil_has_no_vector_of_the_clouds_half() -> None:
    job = started()
    job.play(1)
    assert job.server.state.vectors.keys() == {MODEL}
    job.server.evaluate(dataset().test)
    assert job.server.distillation(seconds=0) is None


# -- what does not fit -----------------------------------------------------------------------------


def refused(server: SplitServer, done: ClusterTrained, pool: Pool | None = None) -> Refusal:
    with pytest.raises(RefusedUpdate) as caught:
        server.add_halves("c0", done, pool=pool)
    return caught.value.reason


def test_what_does_not_fit_is_refused_and_changes_nothing() -> None:
    job = started(deterministic=True, distillation=DISTILS)
    server = job.server
    good, pool = job.cluster(["d-0"], number=1, place=0)
    front, back = good.vectors.front, good.vectors.back
    server.begin(1, list(job.clients))
    nan = np.full_like(back, np.nan)
    assert refused(server, trained(front[1:], back)) == Refusal.SHAPE
    assert refused(server, trained(front, nan)) == Refusal.NON_FINITE
    assert refused(server, trained(front, back, examples=0)) == Refusal.MALFORMED
    narrow = Pool(pool.activations[:, 1:], pool.labels, pool.weights)
    assert refused(server, good, narrow) == Refusal.SHAPE
    foreign = Pool(pool.activations, pool.labels + CLASSES, pool.weights)
    assert refused(server, good, foreign) == Refusal.MALFORMED
    broken = Pool(np.full_like(pool.activations, np.inf), pool.labels, pool.weights)
    assert refused(server, good, broken) == Refusal.NON_FINITE
    for weight, reason in (
        (np.nan, Refusal.NON_FINITE),
        (np.inf, Refusal.NON_FINITE),
        (-1.0, Refusal.MALFORMED),
        (1e6, Refusal.MALFORMED),
        (0.0, Refusal.MALFORMED),
    ):
        odd = Pool(pool.activations, pool.labels, np.full_like(pool.weights, weight))
        assert refused(server, good, odd) == reason, weight
    server.add_halves("c0", good, pool=pool)
    assert refused(server, good, pool) == Refusal.DUPLICATE
    server.aggregate()
    assert (server.vectors.front == front).all()
    told = server.distillation(seconds=0)
    assert told is not None
    assert told.samples == len(pool)


# -- where it is cut -------------------------------------------------------------------------------


def test_what_travels_at_the_cut_is_known_once_it_is_cut() -> None:
    server = started().server
    assert [one.layer for one in server.candidates] == ["1", "2"]
    assert server.cut.shape == (8,)
    assert server.vectors.front.size == server.cut.halves.n_front == (FEATURES + 1) * 8


def test_cutting_at_the_same_layer_again_keeps_what_the_cloud_has_learnt() -> None:
    job = started(distillation=DISTILS)
    job.play(1)
    before = job.server.state.vectors[CLOUD].copy()
    job.server.cut_at("2")
    assert (job.server.state.vectors[CLOUD] == before).all()


def test_trying_a_cut_leaves_the_model_as_it_was() -> None:
    job = settings()
    data = dataset()
    client = client_of(job, "d-0", dataset=data)
    before = client.model.vector.clone()
    server = SplitServer(job, Loaded(client.model.module, data, {"d-0": 3}))
    server.cut_at("1")
    assert torch.equal(torch.from_numpy(server.state.vectors[MODEL]), before)


OWN_HALVES = """
from torch import nn

def front(hidden=8):
    return nn.Sequential(nn.Linear(12, hidden), nn.ReLU())

def back(hidden=8):
    return nn.Linear(hidden, 4)

def cloud(hidden=8):
    return nn.Sequential(nn.Linear(hidden, 16), nn.ReLU(), nn.Linear(16, 4))
"""


def test_three_functions_of_ones_own_are_front_back_and_the_clouds_half(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_three.py").write_text(OWN_HALVES)
    monkeypatch.syspath_prepend(str(tmp_path))
    own: dict[str, Any] = {
        "model": {"front": "own_three:front", "back": "own_three:back", "args": {"hidden": 6}},
        "distillation": {**DISTILS, "cloudEntrypoint": "own_three:cloud"},
    }
    job = settings(**own)
    module = client_of(job, "d-0", dataset=dataset()).model.module
    server = SplitServer(job, Loaded(module, dataset(), {"d-0": 3}))
    (only,) = server.candidates
    server.cut_at(only.layer)
    assert (only.layer, server.cut.shape) == ("front", (6,))
    assert server.vectors.front.size == only.front_values == (FEATURES + 1) * 6
    assert server.state.vectors[CLOUD].size == (6 + 1) * 16 + (16 + 1) * 4


class Detaching(nn.Module):
    """A layer that no gradient goes through."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.detach()


@pytest.mark.parametrize(
    ("layers", "cut"),
    [
        ((nn.ReLU(inplace=True), nn.Linear(8, CLASSES)), "0"),
        ((nn.Identity(), Detaching(), nn.Linear(8, CLASSES)), "1"),
    ],
)
def test_halves_that_cannot_be_trained_apart_end_the_job_before_round_1(
    layers: tuple[nn.Module, ...], cut: str
) -> None:
    module = nn.Sequential(nn.Linear(FEATURES, 8), *layers)
    server = SplitServer(settings(), Loaded(module, dataset(), {"d-0": 3}))
    with pytest.raises(InvalidJob, match=f"cut after layer {cut} raised"):
        server.cut_at(cut)


def test_a_cloud_half_of_ones_own_with_running_statistics_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_cloud.py").write_text(OWN_CLOUD)
    monkeypatch.syspath_prepend(str(tmp_path))
    job = settings(
        distillation={"enabled": True, "cloudEntrypoint": "own_cloud:build"},
    )
    client = client_of(settings(), "d-0", dataset=dataset())
    server = SplitServer(job, Loaded(client.model.module, dataset(), {"d-0": 3}))
    with pytest.raises(InvalidJob, match="use GroupNorm"):
        server.cut_at("2")
