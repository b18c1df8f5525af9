"""What an edge computes for a cluster: the back half, the front's steps, what goes on to the cloud.

Owned by `edge.splitting`. Back halves run in one thread for all clusters of the edge, so that its
loop serves devices, probes and other clusters meanwhile. Invariant: nobody else touches the
training while its step runs.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np
import torch

from lockstep_api.orders import ClusterOrder
from lockstep_api.sessions import Refusal
from lockstep_api.settings import JobSettings
from lockstep_api.spec import FrontUpdate, WireDtype
from lockstep_workers.edge.split_metrics import SplitMetrics
from lockstep_workers.entrypoints import explained
from lockstep_workers.errors import InvalidJob
from lockstep_workers.learning.client import sgd_of
from lockstep_workers.learning.cluster_training import ClusterTraining, HalfVectors, Member
from lockstep_workers.learning.front import Matrix
from lockstep_workers.learning.halves import halves
from lockstep_workers.learning.parameters import FlatModel
from lockstep_workers.learning.pool import Reservoir
from lockstep_workers.learning.strategy import MODEL
from lockstep_workers.parcels import Tensor

FRONT, BACK = "front", "back"
"""The tensors of a result; an order has the whole model."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shop:
    """What all clusters of an edge are computed with."""

    edge: str
    job: JobSettings
    model: FlatModel
    """The whole model; stays as it is."""
    compute: Executor
    """Of one thread."""
    metrics: SplitMetrics
    refused: Callable[[Refusal], None]
    """Counts refused frames."""


class SplitWork:
    """The computing of one cluster's part of a round."""

    def __init__(self, order: ClusterOrder, vectors: Mapping[str, Tensor], *, shop: Shop) -> None:
        """At the vectors of the order.

        Raises:
            InvalidJob: the order is not for this model.
        """
        self._order, self._shop, job = order, shop, shop.job
        if order.cut is None or not order.cut_shape or job.split is None:
            raise InvalidJob(f"cluster {order.cluster} is ordered without a cut")
        parted = halves(shop.model, order.cut)
        whole, n_front = np.array(vectors[MODEL], np.float32), parted.n_front  # a body is read only
        if whole.size != shop.model.vector.numel():
            raise InvalidJob(
                "the model that is built here is not the cloud pod's: the function must build the "
                "same model in every pod"
            )
        self._seed = (job.training.seed, order.round)
        self.training = ClusterTraining(
            parted,
            HalfVectors(whole[:n_front], whole[n_front:]),
            members=[
                Member(one.client, one.examples, one.plan.batch_size or 1) for one in order.members
            ],
            cut_shape=order.cut_shape,
            sgd=sgd_of(job),
            seed=(*self._seed, int(order.cluster[1:])),
            update=job.split.front_update,
        )
        self._pool = self._reservoir()
        self.back_cpu_s = 0.0
        """Core-seconds of the back half so far."""

    @property
    def keeps_front(self) -> bool:
        """Whether devices step their own fronts."""
        split = self._shop.job.split
        return split is not None and split.front_update is FrontUpdate.ROUND

    @property
    def is_narrow(self) -> bool:
        """Whether activations came as bfloat16: then they are no more than that."""
        split = self._shop.job.split
        return split is not None and split.wire_dtype is WireDtype.BFLOAT16

    def _reservoir(self) -> Reservoir | None:
        order = self._order
        if not order.pool_samples:
            return None
        first = self._shop.job.clients().index(order.members[0].client)
        return Reservoir(order.pool_samples, (*self._seed, first))

    async def step(self, step: int, present: Sequence[str]) -> Matrix:
        """The back half on those who are there; the gradients of all rows.

        Raises:
            InvalidJob: the user's back half raised, or changed its buffers.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._shop.compute, self.step_now, step, list(present))

    def step_now(self, step: int, present: Sequence[str]) -> Matrix:
        """As `step`, in the calling thread."""
        began_s, cpu_s = time.monotonic(), _cpu_s()
        order, model = self._order, self._shop.job.model
        what = (
            f"the back half, in step {step + 1} of round {order.round}, cluster {order.cluster} "
            f"at edge {self._shop.edge}, raised"
        )
        with explained(what, own=model.back or model.entrypoint):
            done = self.training.step(present)
        if self._pool is not None:
            self._pool.add(step, self.training.batch(present))
        used_s = _cpu_s() - cpu_s
        self.back_cpu_s += used_s
        self._shop.metrics.backed(time.monotonic() - began_s)
        return done.gradients

    def tensors(self) -> dict[str, Tensor]:
        """The halves, and what goes on to the cloud: activations in the dtype of the wire."""
        vectors = self.training.result().vectors
        tensors: dict[str, Tensor] = {FRONT: vectors.front, BACK: vectors.back}
        pool = None if self._pool is None else self._pool.take()
        if pool is not None:
            tensors |= {"labels": pool.labels, "weights": pool.weights}
            values = torch.from_numpy(pool.activations)
            if self.is_narrow:
                tensors["activations"] = values.bfloat16().view(torch.uint16).numpy()
            else:
                tensors["activations"] = pool.activations
        return tensors


def _cpu_s() -> float:
    """Of the calling thread; with several threads of torch of the whole process, which then does
    hardly anything else."""
    return time.thread_time() if torch.get_num_threads() == 1 else time.process_time()
