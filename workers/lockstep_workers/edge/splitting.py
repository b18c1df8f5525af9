"""Split training of a cluster: the edge's part of a round, step by step.

One `SplitRunner` an order. Devices' connections come in by their route (`split_routes`), vectors
and order from the cloud pod; batch, back half and front are `split_work`'s, frames are
`split_connection`'s. In a step the front goes out, activations come in, all at once and straight
into the batch, the back half runs in the edge's one thread for that, gradients go out, and the
front's gradients come in.
Invariants: while the back half runs, nobody writes into the batch; a patient round (training that
is deterministic) has the same steps whoever was gone meanwhile, for a device that comes back gets
the front and the step that its cluster is at; any other round waits for a device until its
connection closes, or its step's deadline, and it may come again at the next step.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
import structlog

from lockstep_api.orders import ClusterOrder, MemberOrder
from lockstep_api.sessions import Refusal
from lockstep_workers.edge.gathering import Ask, Patience, gather
from lockstep_workers.edge.running import ClusterOutcome
from lockstep_workers.edge.seats import Seat, Seated
from lockstep_workers.edge.split_connection import SplitConnection
from lockstep_workers.edge.split_results import Done, outcome
from lockstep_workers.edge.split_work import Shop, SplitWork
from lockstep_workers.errors import RefusedUpdate
from lockstep_workers.learning.front import Matrix
from lockstep_workers.parcels import Tensor
from lockstep_workers.split_frames import Shape

_log = structlog.get_logger()
_NO_FAULT = frozenset({Refusal.TOO_SLOW, Refusal.DUPLICATE, Refusal.NOT_IN_ROUND})
"""Refused, and no worse for it."""
_NEVER_CAME = "it never came to its edge"
_LEFT = "it was gone at the end of the round"


class _Anew(Exception):
    """Devices step their own fronts and one was lost: a patient cluster begins its round anew."""


class SplitRunner:
    """A cluster's part of a round."""

    def __init__(
        self,
        order: ClusterOrder,
        vectors: Mapping[str, Tensor],
        *,
        shop: Shop,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing happens until `run`, but that devices may come.

        Raises:
            InvalidJob: the order is not for this model.
        """
        self.order, self._vectors, self._shop, self._clock = order, vectors, shop, clock
        split, self._began_s = shop.job.split, clock()
        self._work = SplitWork(order, vectors, shop=shop)
        assert split is not None
        self._steps, self._step = max(one.plan.steps for one in order.members), 0
        members = len(order.members)
        due_s = order.deadline_seconds
        self._patience = Patience(
            patient=shop.job.training.deterministic,
            step_s=split.step_deadline_seconds,
            due_s=None if due_s is None else self._began_s + due_s,
            quorum=min(order.quorum or members, members),
            clock=clock,
        )
        self._seats = {one.client: self._seat(one) for one in order.members}
        self._refused: dict[Refusal, int] = {}
        self.is_dropped = False
        """It has ended without an outcome: its devices ask the cloud pod again."""

    def _seat(self, member: MemberOrder) -> Seat:
        training, split = self._work.training, self._shop.job.split
        assert split is not None
        rows = training.rows(member.client)
        shape = Shape(
            round=self.order.round,
            rows=rows.stop - rows.start,
            values=training.activations.shape[1],
            front_values=training.front.size,
            wire=split.wire_dtype,
            keeps_front=self._work.keeps_front,
        )
        return Seat(member, rows, shape, np.zeros(shape.front_values, np.float32))

    # -- called by the route and by who runs it ------------------------------------------------

    def connection(self, client: str) -> SplitConnection:
        """One for a member's seat, or one that says why it gets none."""
        seat = self._seats[client]
        made = Seated(
            seat, classes=self.order.classes or 1, refused=partial(self._is_refused, seat)
        )
        if seat.report is not None:
            what = f"the part of {client} in round {self.order.round} is done"
            made.refuse(RefusedUpdate(Refusal.DUPLICATE, what))
        elif seat.lost:
            what = f"{client} is not waited for: {seat.lost}"
            made.refuse(RefusedUpdate(Refusal.NOT_IN_ROUND, what))
        return made

    def _is_refused(self, seat: Seat, error: RefusedUpdate) -> None:
        """A connection was closed for what came, or for what did not come in time."""
        self._refused[error.reason] = self._refused.get(error.reason, 0) + 1
        self._shop.refused(error.reason)
        _log.warning("split connection refused", client=seat.client, round=self.order.round,
                     reason=error.reason.value, why=str(error))  # fmt: skip
        if error.reason not in _NO_FAULT:
            seat.is_rejected = True
            seat.lose(f"its frame was refused ({error.reason.value}): {error}")

    def gone(self, clients: Mapping[str, str]) -> None:
        """These members will give nothing any more, and why."""
        for client, why in clients.items():
            seat = self._seats[client]
            seat.lose(why)
            if seat.connection is not None:
                seat.connection.finish()

    def close(self) -> None:
        """Its gathering has the deadline and the cluster's part of the quorum itself."""

    async def run(self) -> ClusterOutcome:
        """From the order to the outcome.

        Raises:
            JobFailed: the user's back half failed.
        """
        try:
            await self._play()
            return self._outcome()
        except BaseException:
            self.is_dropped = True
            raise
        finally:
            for seat in self._seats.values():
                if seat.connection is not None:
                    seat.connection.finish()

    async def _play(self) -> None:
        while True:
            try:
                await self._train()
                return await self._end()
            except _Anew:
                self._begin_anew()

    # -- steps -----------------------------------------------------------------------------------

    async def _train(self) -> None:
        """All steps, or those that were done when the round had to close."""
        while self._step < self._steps:
            if self._step and self._patience.is_due(self._here()):
                _log.info("cluster closes at its deadline", cluster=self.order.cluster,
                          round=self.order.round, steps=self._step)  # fmt: skip
                return
            began_s = self._clock()
            there = await self._forward()
            if not there:
                return
            for seat in self._seats.values():
                seat.missed += seat not in there
            gradients = await self._work.step(self._step, [seat.client for seat in there])
            await self._backward(there, gradients)
            self._shop.metrics.stepped(
                self._clock() - began_s, samples=sum(seat.shape.rows for seat in there),
                missed=len(self._seats) - len(there),
            )  # fmt: skip
            self._step += 1

    def _here(self) -> int:
        return sum(seat.connection is not None for seat in self._seats.values())

    def _wanted(self) -> list[Seat]:
        """Those that a step waits for: at the first one for all who may still come."""
        seats = [seat for seat in self._seats.values() if not seat.lost]
        if self._step == 0:
            return [seat for seat in seats if self._patience.patient or seat.is_expected()]
        return self._those_here(seats)

    def _those_here(self, seats: Sequence[Seat]) -> list[Seat]:
        """Without those that nobody waits for, as their connection has ended."""
        return [seat for seat in seats if self._patience.patient or seat.connection is not None]

    async def _forward(self) -> list[Seat]:
        """The activations of those who are there; nobody: none will be, as far as one can see."""
        ask = Ask(self._ask_activations, self._ask_activations)
        while True:
            there = await self._gather(self._wanted(), ask)
            if there or not await self._anybody():
                return there

    async def _anybody(self) -> bool:
        """Whether a device is here, or comes within a step's time; a patient cluster waits on."""
        may_come = [seat for seat in self._seats.values() if not seat.lost]
        waiting = {asyncio.ensure_future(seat.here()) for seat in may_come}
        if not waiting:
            return False
        within_s = None if self._patience.patient else self._patience.step_s
        try:
            await asyncio.wait(waiting, timeout=within_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in waiting:
                each.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)
        return any(seat.connection is not None for seat in may_come)

    async def _gather(self, seats: Sequence[Seat], ask: Ask) -> list[Seat]:
        began_s = self._clock()
        there = await gather(seats, ask, patience=self._patience)
        self._shop.metrics.waited(self._clock() - began_s)
        return there

    def _ask_activations(self, seat: Seat, connection: SplitConnection) -> "asyncio.Future[None]":
        """With the front before it, where this connection has not got it yet."""
        training, begun = self._work.training, seat.fronted
        if begun is not connection or not self._work.keeps_front:
            if self._work.keeps_front and begun is not None and self._patience.patient:
                raise _Anew  # what it had made of the front is gone
            connection.send_front(self._step, training.front)
            seat.fronted = connection
        return connection.activations(
            self._step, into=training.activations[seat.rows], labels=training.labels[seat.rows]
        )

    async def _backward(self, there: Sequence[Seat], gradients: Matrix) -> None:
        """Gradients out; and the front's in, where the edge steps it."""
        for seat in there:
            seat.steps += 1
        training = self._work.training
        if self._work.keeps_front:
            for seat in there:
                if (connection := seat.connection) is not None:
                    connection.send_gradient(self._step, gradients[seat.rows])
            return
        ask = partial(self._ask_front, gradients=gradients)
        again = partial(self._again, gradients=gradients)
        those = await self._gather(self._those_here(there), Ask(ask, again))
        for seat in those:
            training.add_front(seat.client, seat.front)
        training.finish_step([seat.client for seat in those])

    def _ask_front(
        self, seat: Seat, connection: SplitConnection, *, gradients: Matrix
    ) -> "asyncio.Future[None]":
        if seat.fronted is not connection:  # it has come back while the back half ran
            return asyncio.ensure_future(self._again(seat, connection, gradients=gradients))
        connection.send_gradient(self._step, gradients[seat.rows])
        return connection.front_gradient(self._step, into=seat.front)

    async def _again(self, seat: Seat, connection: SplitConnection, *, gradients: Matrix) -> None:
        """A device that has come back in the middle of a step does it once more: the same rows."""
        await self._ask_activations(seat, connection)
        await self._ask_front(seat, connection, gradients=gradients)

    # -- the end ---------------------------------------------------------------------------------

    async def _end(self) -> None:
        """Reports, and the devices' own fronts, of those who are there."""
        ask = Ask(self._ask_end, self._ask_end)
        ending = [seat for seat in self._seats.values() if self._has_part(seat)]
        await self._gather(self._those_here(ending), ask)
        told = [seat for seat in self._seats.values() if seat.report is not None]
        for seat in told:
            if seat.connection is not None:
                seat.connection.take_end()
        if self._work.keeps_front:
            for seat in told:
                self._work.training.add_front(seat.client, seat.front)
            self._work.training.finish_round([seat.client for seat in told])
        for seat in self._seats.values():
            if seat.report is None:
                seat.lose(_LEFT if seat.came else _NEVER_CAME)

    def _has_part(self, seat: Seat) -> bool:
        """Whether a device has something to tell at the end."""
        if self._work.keeps_front and seat.fronted is not seat.connection:
            return False
        return seat.steps > 0 and not seat.lost

    def _ask_end(self, seat: Seat, connection: SplitConnection) -> "asyncio.Future[None]":
        return asyncio.ensure_future(self._ended(seat, connection))

    async def _ended(self, seat: Seat, connection: SplitConnection) -> None:
        keeps = self._work.keeps_front
        if keeps and self._step < self._steps:  # it is at a step that will not be done
            await self._ask_activations(seat, connection)
        connection.send_done(self._step)
        front = seat.front if keeps else None
        seat.report = await connection.end(client=seat.client, front=front)
        seat.arrived_s = self._clock() - self._began_s

    def _begin_anew(self) -> None:
        """All devices come again: what they had of the round is lost."""
        _log.warning("cluster begins its round anew: a device's own front was lost",
                     cluster=self.order.cluster, round=self.order.round)  # fmt: skip
        self._step, self._work = 0, SplitWork(self.order, self._vectors, shop=self._shop)
        for seat in self._seats.values():
            seat.begin_anew()

    def _outcome(self) -> ClusterOutcome:
        return outcome(
            Done(
                order=self.order,
                edge=self._shop.edge,
                seats=list(self._seats.values()),
                work=self._work,
                steps=self._step,
                seconds=self._clock() - self._began_s,
                refused=self._refused,
            )
        )
