"""Plays a run in this process, with the learning code of devices, edges and cloud; no pods.

`runs` calls `play`. What a wire would change is the dtype of activations and gradients, and that is
done here, too.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from lockstep_api.spec import (
    Distillation,
    FrontUpdate,
    Model,
    Partition,
    PartitionScheme,
    StrategySpec,
)
from lockstep_api.spec.tiers import ClusteringMethod
from lockstep_operator.core.clustering import Member as Labelled
from lockstep_operator.core.clustering import Rule, cluster
from lockstep_workers.data import Dataset, Examples, label_histogram
from lockstep_workers.learning.client import Client
from lockstep_workers.learning.cluster_training import (
    ClusterTrained,
    ClusterTraining,
    HalfVectors,
    Member,
)
from lockstep_workers.learning.distillation import Distilled, Distilling, distil, distilling
from lockstep_workers.learning.evaluation import evaluate
from lockstep_workers.learning.front import FrontHalf
from lockstep_workers.learning.halves import cut_shape, halves, own
from lockstep_workers.learning.parameters import FlatModel, flatten
from lockstep_workers.learning.partition import partition
from lockstep_workers.learning.pool import Pool, pooled
from lockstep_workers.learning.server import Server
from lockstep_workers.learning.strategies import build_strategy
from lockstep_workers.learning.strategy import Contribution
from lockstep_workers.learning.training import Sgd
from lockstep_workers.models import build_cloud_model, build_model
from tests.bench.split.arms import ALPHA, BATCH, MOMENTUM, STEPS, Run
from tests.bench.split.figures import Curve

LAST, EVERY = 10, 5
"""Evaluated are so many rounds at the end, and before them every so many."""


@dataclass(frozen=True, slots=True)
class Crew:
    """The clients of a run."""

    run: Run
    data: Dataset
    parts: Sequence[Examples]
    sgd: Sgd

    def names(self) -> list[str]:
        """In order."""
        return [f"d-{index}" for index in range(len(self.parts))]


@dataclass(slots=True)
class _Told:
    """What a run tells, round by round."""

    rounds: list[int] = field(default_factory=list)
    edge: list[float] = field(default_factory=list)
    cloud: list[float] = field(default_factory=list)
    divergences: list[float] = field(default_factory=list)
    edge_taught: int = 0
    cloud_taught: int = 0


def play(run: Run, data: Dataset) -> Curve:
    """A run from first to last round."""
    dealt = partition(
        data.train.labels,
        [1.0] * run.arm.setting.clients,
        spec=Partition(scheme=PartitionScheme.DIRICHLET, alpha=ALPHA),
        seed=run.seed,
    )
    crew = Crew(
        run, data, [data.train.part(part) for part in dealt], Sgd(run.rate, MOMENTUM, BATCH)
    )
    told, rounds = _Told(), run.arm.setting.rounds
    one_round = _federated(crew) if run.arm.method == "fedavg" else _Split(crew, told).play
    for number in range(1, rounds + 1):
        models = one_round(number)
        if number > rounds - LAST or number % EVERY == 0:
            told.rounds.append(number)
            for accuracies, model in zip((told.edge, told.cloud), models, strict=False):
                accuracies.append(evaluate(model, data.test).accuracy)
    return Curve(
        rounds=tuple(told.rounds),
        edge=tuple(told.edge),
        cloud=tuple(told.cloud),
        divergence=float(np.mean(told.divergences)) if told.divergences else 0.0,
        edge_taught=told.edge_taught,
        cloud_taught=told.cloud_taught,
    )


@dataclass(frozen=True, slots=True)
class _Task:
    """What a client of fedavg is asked to do."""

    round: int
    steps: int = STEPS
    base_round: int | None = None
    mean_steps: float = STEPS
    numbers: Mapping[str, float] = field(default_factory=dict)


def _federated(crew: Crew) -> Callable[[int], Sequence[FlatModel]]:
    """Rounds of fedavg, all clients each."""
    run, strategy = crew.run, build_strategy(StrategySpec(), momentum=MOMENTUM)
    spec = Model.model_validate(run.arm.setting.model)
    names, model = crew.names(), flatten(build_model(spec, seed=run.seed))
    examples = {name: len(part) for name, part in zip(names, crew.parts, strict=True)}
    server = Server(strategy, build_model(spec, seed=run.seed), examples=examples)
    clients = [
        Client(
            name=name, index=index, examples=crew.parts[index], model=model, strategy=strategy,
            sgd=crew.sgd, seed=run.seed,
        )
        for index, name in enumerate(names)
    ]  # fmt: skip

    def play_round(number: int) -> Sequence[FlatModel]:
        server.begin(number, names)
        for client in clients:
            done = client.train(server.broadcast(), _Task(number))
            contribution = Contribution(len(client.examples), done.steps)
            flat = np.concatenate(list(done.uploads.values()))
            server.add(client.name, flat, contribution=contribution)
        server.aggregate()
        return (server.model,)

    return play_round


class _Split:
    """Rounds of split training."""

    def __init__(self, crew: Crew, told: _Told) -> None:
        """At the initial weights, which are those of fedavg."""
        run, arm = crew.run, crew.run.arm
        self._crew, self._told = crew, told
        spec = Model.model_validate(arm.setting.model)
        self._model = flatten(build_model(spec, seed=run.seed))
        self._halves = halves(self._model, arm.setting.cut)
        self._shape = cut_shape(self._halves.front, crew.data.train.inputs.shape[1:])
        self._update = FrontUpdate(arm.front)
        self._fronts = {
            name: FrontHalf(
                self._halves.front, part, seed=(run.seed, index), sgd=crew.sgd, update=self._update
            )
            for index, (name, part) in enumerate(zip(crew.names(), crew.parts, strict=True))
        }
        self._labelled = [
            Labelled(name, label_histogram(part, crew.data.classes), len(part))
            for name, part in zip(crew.names(), crew.parts, strict=True)
        ]
        self._how = _distilling(run)
        self._cloud = self._build_cloud() if self._how else None

    def _build_cloud(self) -> FlatModel:
        run = self._crew.run
        spec = Distillation.model_validate(dict(run.arm.distil))
        return flatten(
            build_cloud_model(
                spec, self._shape, classes=self._crew.data.classes, seed=run.seed, args={}
            )
        )

    def play(self, number: int) -> Sequence[FlatModel]:
        """One round; the models to be evaluated."""
        arm, seed = self._crew.run.arm, self._crew.run.seed
        rule = Rule(
            ClusteringMethod(arm.method), 1 if arm.method == "none" else arm.setting.clusters
        )
        trained: list[ClusterTrained] = []
        pools: list[Pool] = []
        for place, one in enumerate(cluster(self._labelled, rule=rule, seed=seed, round=number)):
            self._told.divergences.append(one.divergence or 0.0)
            result, batches = self._train(one.clients, (seed, number, place))
            trained.append(result)
            pools.extend(batches)
        self._aggregate(trained)
        if self._how is None or self._cloud is None:
            return (self._model,)
        pool = pooled(pools, most=1 << 30, seed=(seed, number))
        self._count(self._distil(pool, number))
        both = nn.Sequential(self._halves.front, self._cloud.module)
        return (self._model, FlatModel(both, self._cloud.vector, ()))

    def _train(
        self, clients: Sequence[str], seed: tuple[int, int, int]
    ) -> tuple[ClusterTrained, list[Pool]]:
        """A cluster's round; its activations by step."""
        vector, n_front = self._model.vector.numpy(), self._halves.n_front
        sizes = {one.client: one.examples for one in self._labelled}
        training = ClusterTraining(
            self._halves,
            HalfVectors(vector[:n_front], vector[n_front:]),
            members=[Member(client, sizes[client], BATCH) for client in clients],
            cut_shape=self._shape,
            sgd=self._crew.sgd,
            seed=seed,
            update=self._update,
        )
        pools = list(self._steps(training, clients, number=seed[1]))
        if self._update is FrontUpdate.ROUND:
            for client in clients:
                training.add_front(client, self._fronts[client].front)
            training.finish_round(clients)
        return training.result(), pools

    def _steps(
        self, training: ClusterTraining, clients: Sequence[str], *, number: int
    ) -> Iterator[Pool]:
        by_step = self._update is FrontUpdate.STEP
        for step in range(STEPS):
            for client in clients:
                half, place = self._fronts[client], training.rows(client)
                if by_step or step == 0:
                    half.use(training.front)
                sent, labels = half.forward(number, step, batch_size=BATCH)
                training.activations[place], training.labels[place] = self._sent(sent), labels
            gradients = self._sent(training.step(clients).gradients)
            for client in clients:
                part = self._fronts[client].backward(gradients[training.rows(client)])
                if by_step:
                    training.add_front(client, part)
            if by_step:
                training.finish_step(clients)
            if self._how is not None:
                rows = training.batch(clients)
                activations = rows.activations.reshape(-1, *self._shape)
                yield Pool(activations.copy(), rows.labels.copy(), rows.weights)

    def _sent(self, values: np.ndarray) -> np.ndarray:
        """The values as they come out of the wire."""
        if self._crew.run.arm.wire == "float32":
            return values
        narrow: np.ndarray = torch.from_numpy(values).bfloat16().float().numpy()
        return narrow

    def _aggregate(self, trained: Sequence[ClusterTrained]) -> None:
        """The mean of the clusters' halves by examples."""
        shares = np.array([one.examples for one in trained]) / sum(one.examples for one in trained)
        vectors = [np.concatenate([t.vectors.front, t.vectors.back]) for t in trained]
        mean = sum(share * vector for share, vector in zip(shares, vectors, strict=True))
        with torch.no_grad():
            self._model.vector.copy_(torch.from_numpy(np.asarray(mean, np.float32)))

    def _distil(self, pool: Pool, number: int) -> Distilled:
        assert self._how is not None
        assert self._cloud is not None
        back = own(self._halves.back)
        done = distil(
            back, self._cloud, pool=pool, how=self._how, seed=(self._crew.run.seed, number)
        )
        with torch.no_grad():
            self._model.vector[self._halves.n_front :].copy_(back.vector)
        return done

    def _count(self, done: Distilled) -> None:
        self._told.edge_taught += done.edge_taught
        self._told.cloud_taught += done.cloud_taught


def _distilling(run: Run) -> Distilling | None:
    if not run.arm.distil:
        return None
    spec = Distillation.model_validate({**run.arm.distil, "learningRate": run.distil_rate})
    return distilling(spec, Sgd(run.rate, MOMENTUM, BATCH))
