"""The server side of split training: the model in two halves, and the mean of what clusters made.

Owned by whoever plays a job's rounds. A cluster k whose clients hold n_k examples ends a round with
its front F_k and back G_k; the model becomes
    [ Σ n_k F_k / Σ n_k ; Σ n_k G_k / Σ n_k ]
(FedAvg over clusters: McMahan et al. 2017). With distillation the back half and the cloud's deeper
one then learn from the round's activations (`distillation`), which are forgotten.
Invariant: the model is cut at one place from `cut_at` on, and the state has the vector `cloud` from
then on, if the job distils; with `deterministic` no order of clusters changes a bit.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from lockstep_api.sessions import Refusal
from lockstep_api.settings import JobSettings
from lockstep_api.tiers import CutCandidate, DistillationReport
from lockstep_api.wire import told_loss
from lockstep_workers.data import Examples
from lockstep_workers.errors import RefusedUpdate
from lockstep_workers.learning.client import sgd_of
from lockstep_workers.learning.cluster_training import ClusterTrained, HalfVectors
from lockstep_workers.learning.cuts import candidates
from lockstep_workers.learning.distillation import Distilled, distil, distilling_of
from lockstep_workers.learning.evaluation import Evaluation, evaluate
from lockstep_workers.learning.halves import Halves, cut_shape, halves, own
from lockstep_workers.learning.parameters import FlatModel, flatten, use_vector
from lockstep_workers.learning.pool import Pool, pooled
from lockstep_workers.learning.safeguards import safeguards_of
from lockstep_workers.learning.server import Server
from lockstep_workers.learning.split_trial import try_cloud, try_halves
from lockstep_workers.learning.strategies import fedavg
from lockstep_workers.learning.strategy import MODEL, Contribution, ServerState
from lockstep_workers.learning.trial import Loaded
from lockstep_workers.models import build_cloud_model
from lockstep_workers.tensors import Flat, check_values

CLOUD = "cloud"
"""The vector of the cloud's half."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The model as it is cut."""

    halves: Halves
    shape: tuple[int, ...]
    """Of an example's activations."""
    cloud: FlatModel | None
    """The cloud's half; None: the job does not distil."""


class SplitServer(Server):
    """The vectors of one job."""

    def __init__(self, job: JobSettings, loaded: Loaded) -> None:
        """At the model's initial weights; it is not cut yet.

        Raises:
            InvalidJob: the model cannot be cut anywhere.
        """
        super().__init__(
            fedavg(),
            loaded.module,
            examples=loaded.examples,
            deterministic=job.training.deterministic,
            safeguards=safeguards_of(job, loaded.reached, classes=loaded.dataset.classes),
        )
        self._job, self._how = job, distilling_of(job)
        self._train, self._classes = loaded.dataset.train, loaded.dataset.classes
        self._heaviest = sum(loaded.examples.values())
        """More than an example of a pool weighs."""
        self._own = job.model.entrypoint or job.model.front
        shape = self._train.inputs.shape[1:]
        self.candidates: list[CutCandidate] = candidates(loaded.module, shape, entrypoint=self._own)
        """Where the model can be cut."""
        self._at: Cut | None = None
        self._pools: dict[str, Pool] = {}
        self._distilled: Distilled | None = None
        self._cloud_accuracy: float | None = None

    # -- where it is cut -------------------------------------------------------------------------

    @property
    def cut(self) -> Cut:
        """The model as it is cut."""
        assert self._at is not None, "cut_at comes first"
        return self._at

    def cut_at(self, layer: str) -> None:
        """From now on the model is cut here; what the halves do in a round is tried.

        Where it was not cut before, or at another layer, the cloud's half is at its initial
        weights.

        Raises:
            InvalidJob: it cannot be cut here, or a half cannot be trained; says what to change.
        """
        if self._at is not None and self._at.halves.cut == layer:
            return
        cut = halves(self.model, layer)
        shape = cut_shape(cut.front, self._train.inputs.shape[1:], entrypoint=self._own)
        some = self._train.part(np.arange(min(len(self._train), sgd_of(self._job).batch_size)))
        try_halves(cut, some, cut_shape=shape, sgd=sgd_of(self._job), entrypoint=self._own)
        self._at = Cut(cut, tuple(shape), self._build_cloud(shape))
        if self._at.cloud is not None:
            self.move({CLOUD: self._at.cloud.vector.numpy()})

    def _build_cloud(self, shape: Sequence[int]) -> FlatModel | None:
        spec, model = self._job.distillation, self._job.model
        if self._how is None or spec is None:
            return None
        args = model.args if spec.cloud_entrypoint else {}
        seed, classes = self._job.training.seed, self._classes
        module = build_cloud_model(spec, shape, classes=classes, seed=seed, args=args)
        cloud = flatten(module)
        try_cloud(cloud, shape, classes=classes, entrypoint=spec.cloud_entrypoint)
        return cloud

    @property
    def vectors(self) -> HalfVectors:
        """The values of both halves, to be read only."""
        model, n_front = self.state.vectors[MODEL], self.cut.halves.n_front
        return HalfVectors(model[:n_front], model[n_front:])

    def go_on_from(self, state: ServerState) -> None:
        """Takes the state of a checkpoint of a job that was cut where this one is."""
        super().go_on_from(state)
        if self._at is not None and self._at.cloud is not None:
            cloud = use_vector(self._at.cloud, torch.from_numpy(state.vectors[CLOUD]))
            self._at = replace(self._at, cloud=cloud)

    # -- a round ---------------------------------------------------------------------------------

    def begin(self, round_number: int, participants: Sequence[str]) -> None:
        """Starts a round."""
        self._pools = {}
        super().begin(round_number, participants)

    def add_halves(self, cluster: str, done: ClusterTrained, *, pool: Pool | None = None) -> None:
        """Takes what a cluster made of the halves, and activations to distil with.

        Raises:
            RefusedUpdate: it does not fit the model, or has values that are not finite; nothing is
                changed.
        """
        if cluster in self._sum.shares:
            raise RefusedUpdate(Refusal.DUPLICATE, f"cluster {cluster} is in the sum already")
        if done.examples < 1:
            raise RefusedUpdate(Refusal.MALFORMED, f"cluster {cluster} has no client's work in it")
        model = self._whole(done.vectors)
        if pool is not None and len(pool) and self._how is not None:
            self._pools[cluster] = self._checked(pool)
        self.add(cluster, model, contribution=Contribution(done.examples, done.steps))

    def _whole(self, made: HalfVectors) -> Flat:
        wanted = self.vectors
        found, expected = _sizes(made), _sizes(wanted)
        if found != expected:
            raise RefusedUpdate(
                Refusal.SHAPE, f"front and back have {found} values, not {expected}"
            )
        whole = np.concatenate([made.front, made.back])
        check_values(whole, "the halves have values")
        return whole

    def _checked(self, pool: Pool) -> Pool:
        """A copy, for the memory of a result is used again, with activations in their own shape."""
        rows, shape = len(pool), self.cut.shape
        values = pool.activations.reshape(rows, -1)
        if values.shape[1:] != (int(np.prod(shape)),) or len(pool.weights) != rows:
            raise RefusedUpdate(
                Refusal.SHAPE, f"activations have {values.shape[1:]} values each, not {shape}"
            )
        if not 0 <= pool.labels.min() <= pool.labels.max() < self._classes:
            raise RefusedUpdate(Refusal.MALFORMED, f"labels are not below {self._classes}")
        check_values(values.reshape(-1), "the activations have values")
        check_values(pool.weights, "the pool has weights")
        if not (0 <= pool.weights.min() <= pool.weights.max() <= self._heaviest):
            what = f"an example weighs between 0 and the job's {self._heaviest} examples"
            raise RefusedUpdate(Refusal.MALFORMED, what)
        if not pool.weights.any():
            raise RefusedUpdate(Refusal.MALFORMED, "no example of the pool weighs anything")
        activations = values.reshape(rows, *shape).copy()
        return Pool(activations, pool.labels.copy(), pool.weights.copy())

    def aggregate(self) -> None:
        """Makes the next state from the halves of at least one cluster, and distils."""
        self._distilled = self._cloud_accuracy = None
        super().aggregate()
        pools = [self._pools[cluster] for cluster in sorted(self._pools)]
        self._pools = {}
        if pools:
            self._distil(pools)

    def _distil(self, pools: Sequence[Pool]) -> None:
        """Lets copies of both halves learn; the last state's vectors stay as they are."""
        cut, how, spec = self.cut, self._how, self._job.distillation
        assert how is not None
        assert spec is not None
        assert cut.cloud is not None
        seed = (self._job.training.seed, self._round)
        edge, cloud = own(cut.halves.back), own(cut.cloud.module)
        pool = pooled(pools, most=spec.max_samples, seed=seed)
        self._distilled = distil(edge, cloud, pool=pool, how=how, seed=seed)
        model = np.concatenate([self.vectors.front, edge.vector.numpy()])
        vectors = {**self.state.vectors, MODEL: model, CLOUD: cloud.vector.numpy()}
        self.go_on_from(replace(self.state, vectors=vectors))

    def suspects(self) -> dict[str, str]:
        """None: what comes here is of clusters, which hold honest clients too."""
        return {}

    # -- what came of it -------------------------------------------------------------------------

    def evaluate(self, test: Examples) -> Evaluation:
        """Accuracy and loss of front and back half; the cloud's is kept for `distillation`."""
        cut = self.cut
        if cut.cloud is not None:
            chain = nn.Sequential(cut.halves.front, cut.cloud.module)
            self._cloud_accuracy = evaluate(replace(self.model, module=chain), test).accuracy
        return super().evaluate(test)

    def distillation(self, seconds: float) -> DistillationReport | None:
        """What the distillation of the last round did, and how long; None: there was none."""
        done = self._distilled
        if done is None:
            return None
        return DistillationReport(
            samples=done.samples,
            edge_taught=done.edge_taught,
            cloud_taught=done.cloud_taught,
            edge_loss=told_loss(done.edge_loss),
            cloud_loss=told_loss(done.cloud_loss),
            cloud_accuracy=self._cloud_accuracy,
            seconds=seconds,
        )


def _sizes(vectors: HalfVectors) -> tuple[int, int]:
    return vectors.front.size, vectors.back.size
