"""The server of split training in the cloud role: what edges are told, and their results taken in.

Owned by the job, in the place of `cloud.server`. An edge gets the whole model, and what it needs to
know of the cut; it sends both halves back, and activations for distillation where the job distils.
Invariant: a result that does not fit is refused before anything is changed.
"""

import math
from collections.abc import Mapping

import numpy as np
import structlog
import torch

from lockstep_api.orders import ClusterOrder, ClusterResult
from lockstep_api.sessions import Refusal
from lockstep_api.settings import JobSettings
from lockstep_api.wire import RoundPlan
from lockstep_workers.entrypoints import explained
from lockstep_workers.errors import RefusedUpdate
from lockstep_workers.learning import split_server
from lockstep_workers.learning.cluster_training import ClusterTrained, HalfVectors
from lockstep_workers.learning.pool import Pool
from lockstep_workers.learning.strategy import Contribution, ServerState
from lockstep_workers.learning.trial import Loaded
from lockstep_workers.parcels import Tensor

_log = structlog.get_logger()
HALVES = frozenset({"front", "back"})
POOL = frozenset({"activations", "labels", "weights"})


class SplitServer(split_server.SplitServer):
    """The vectors of one job, and what goes to edges and comes from them."""

    body = bytearray()
    """Devices receive nothing with their tasks: their edges have the front half."""

    def __init__(self, job: JobSettings, loaded: Loaded, *, constants: bytes = b"") -> None:
        """At the model's initial weights; errors as of `learning.split_server`."""
        super().__init__(job, loaded)
        self.constants = constants
        """What devices and edges take over of the model once (`learning.constants`)."""
        self._most_pooled = job.distillation.max_samples if job.distillation else 0
        self._asked: dict[str, int] = {}
        """Cluster → examples of its pool that its newest order asks for, at most."""

    def as_cut_at(self, layer: str | None) -> ServerState:
        """What a checkpoint holds of a job that was cut here; None: it was not. As `cut_at`."""
        if layer is not None:
            self.cut_at(layer)
        return self.state

    def completed(self, order: ClusterOrder, plan: RoundPlan) -> ClusterOrder:
        """An order with what its edge has to know of the model and of distillation."""
        cut, pooled = self.cut, self._pooled_of(order, plan)
        self._asked[order.cluster] = pooled
        told = {
            "cut": cut.halves.cut,
            "cut_shape": list(cut.shape),
            "classes": self._classes,
            "pool_samples": pooled,
        }
        return order.model_copy(update=told)

    def _pooled_of(self, order: ClusterOrder, plan: RoundPlan) -> int:
        """A cluster's part of what goes on to the cloud: the same share of every cluster's."""
        if not self._most_pooled:
            return 0
        everything = sum(one.steps * (one.batch_size or 1) for one in plan.participants)
        own = sum(one.plan.steps * (one.plan.batch_size or 1) for one in order.members)
        return min(own, math.ceil(self._most_pooled * own / everything))

    def distilled(self) -> None:
        """As `aggregate`.

        Raises:
            InvalidJob: the user's half for the cloud raised.
        """
        spec, number = self._job.distillation, self._round
        if spec is not None:
            _log.info("distillation begins", round=number, clusters=len(self._pools))
        own = spec.cloud_entrypoint if spec is not None else None
        with explained(f"making the model after round {number} raised", own=own):
            self.aggregate()

    def most_result_bytes(self, members: int) -> int:
        """The largest result: both halves, and all of the pool."""
        of_an_example = 4 * math.prod(self.cut.shape) + 12
        return 4 * self.n_values + self._most_pooled * of_an_example

    def add_cluster(
        self,
        result: ClusterResult,
        tensors: Mapping[str, Tensor],
        *,
        contributions: Mapping[str, Contribution],
    ) -> None:
        """Takes what a cluster made of the halves; errors as `add_halves`."""
        wanted = HALVES | POOL if POOL & tensors.keys() else HALVES
        if tensors.keys() != wanted:
            what = f"the result holds {sorted(tensors)}, expected {sorted(wanted)}"
            raise RefusedUpdate(Refusal.SHAPE, what)
        report = result.report
        done = ClusterTrained(
            vectors=HalfVectors(_flat(tensors["front"]), _flat(tensors["back"])),
            clients=tuple(contributions),
            examples=sum(one.examples for one in contributions.values()),
            steps=report.steps,
            samples=report.samples,
            missed=report.missed,
            loss=0.0,
        )
        asked, told = self._asked.get(report.cluster, 0), len(tensors.get("labels", ()))
        if told > asked:
            what = f"the pool has {told} examples, {asked} were asked for"
            raise RefusedUpdate(Refusal.SHAPE, what)
        pool = _pool(tensors) if wanted != HALVES else None
        self.add_halves(report.cluster, done, pool=pool)


def _flat(tensor: Tensor) -> Tensor:
    if tensor.dtype != np.float32 or tensor.ndim != 1:
        what = f"a half is {tensor.dtype} of shape {tensor.shape}, expected float32 of shape (n,)"
        raise RefusedUpdate(Refusal.DTYPE, what)
    return tensor


def _pool(tensors: Mapping[str, Tensor]) -> Pool:
    """Activations in float32, whichever way they came."""
    values, labels, weights = (tensors[name] for name in ("activations", "labels", "weights"))
    found = [str(one.dtype) for one in (values, labels, weights)]
    if found[0] not in {"float32", "uint16"} or found[1:] != ["int64", "float32"]:
        raise RefusedUpdate(Refusal.DTYPE, f"the pool is of {', '.join(found)}")
    rows = len(labels)
    if values.ndim != 2 or values.shape[0] != rows or labels.ndim != 1 or weights.shape != (rows,):
        shapes = values.shape, labels.shape, weights.shape
        raise RefusedUpdate(Refusal.SHAPE, f"the pool is of shapes {', '.join(map(str, shapes))}")
    if values.dtype == np.uint16:
        values = torch.from_numpy(values.copy()).view(torch.bfloat16).float().numpy()
    return Pool(values, labels, weights)
