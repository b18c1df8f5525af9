"""One round of virtual devices: who is sent out, what is trained, who is in when it closes.

`simulation` plays its rounds with it, as the cloud pod's reception does with real devices.
Invariant: what happens is taken in in the order of the virtual clock; an update reaches the server
while the round waits for it, or not at all.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import count
from typing import Protocol

import numpy as np

from lockstep_api.wire import ClientPlan, ClientReport, RoundPlan, Task
from lockstep_simulator.emulation import Trip, VirtualDevice
from lockstep_simulator.observing import Telemetry
from lockstep_simulator.trainers import Order, Trainer
from lockstep_workers.device.connection import Work
from lockstep_workers.device.messages import TrainedRound, report
from lockstep_workers.errors import RefusedUpdate
from lockstep_workers.learning.client import Client, Trained
from lockstep_workers.learning.clipping import Measured
from lockstep_workers.learning.memory import Memories
from lockstep_workers.learning.rounds import Base, Progress, Round
from lockstep_workers.learning.server import Server
from lockstep_workers.learning.strategy import NO_MEMORY, Contribution
from lockstep_workers.tensors import Flat, check_values


@dataclass(frozen=True, slots=True)
class Going:
    """A participant on its way through the round."""

    client: str
    task: Task
    trip: Trip
    gone: str | None
    """Why it will give nothing, though the round waits for it; None: its update comes."""
    memory_round: int | None = None
    trained: Trained | None = None


class Player(Protocol):
    """Plays rounds."""

    turn: int

    def play(
        self, plan: RoundPlan, progress: Progress, *, now_s: float, gone: Mapping[str, str]
    ) -> tuple[Round, float]:
        """The round until it closes, and when that is."""


def base_of(progress: Progress, *, examples: Mapping[str, int], server: Server) -> Base:
    """What the next round builds on."""
    return Base(
        counted=progress.counted,
        saved_round=progress.round,
        examples=examples,
        numbers=server.state.numbers,
        bounds=server.bounds,
    )


class Sink(Protocol):
    """Where updates are added up."""

    def add(self, client: str, flat: Flat, *, contribution: Contribution) -> Measured:
        """Adds a checked update, which it may change."""


@dataclass(slots=True)
class Field:
    """What rounds are played with."""

    clients: Mapping[str, Client]
    devices: Mapping[str, VirtualDevice]
    server: Server
    trainer: Trainer
    telemetry: Telemetry
    examples: Mapping[str, int]
    """Training examples by client."""
    memories: dict[str, Memories]
    down_bytes: int
    """Of the model that a client receives."""
    up_bytes: int
    """Of an update."""
    patient: bool
    hop_s: float = 0.0
    """Until an edge has its order, in a mode with edges."""
    turn: int = 0

    def play(
        self, plan: RoundPlan, progress: Progress, *, now_s: float, gone: Mapping[str, str]
    ) -> tuple[Round, float]:
        """The round from handing out the model until it closes, and when that is.

        `gone` are clients that will give nothing, and why.
        """
        self.turn = max(self.turn + 1, plan.round)
        base = base_of(progress, examples=self.examples, server=self.server)
        now = self.opened(plan, base, now_s=now_s)
        self.server.begin(now.number, now.participants())
        ways = self._train([self._sent(now, one, gone=gone) for one in plan.participants])
        closed_s = self.collect(now, ways)
        for way in ways:
            self._home(now, way, closed_s=closed_s)
        return now, closed_s

    def opened(self, plan: RoundPlan, base: Base, *, now_s: float) -> Round:
        """The round, whose tasks can be handed out."""
        return Round(plan, began_s=now_s, patient=self.patient, base=base, turn=self.turn)

    def _sent(self, now: Round, plan: ClientPlan, *, gone: Mapping[str, str]) -> Going:
        """A participant is told of the round, and does its part."""
        task = now.task_of(plan.client)
        assert task is not None
        trip = self.devices[plan.client].run(
            plan,
            turn=now.turn,
            at_s=now.began_s + self.hop_s,
            down_bytes=self.down_bytes,
            up_bytes=self.up_bytes,
        )
        self.telemetry.trained(
            plan.client, at_s=trip.trained_s, cpu_s=trip.used.cpu_s, steps=trip.steps
        )
        return Going(plan.client, task, trip, gone.get(plan.client))

    def _train(self, ways: list[Going]) -> list[Going]:
        """The real training of those whose update comes."""
        coming = [way for way in ways if way.gone is None]
        orders = [self._order(way) for way in coming]
        trained = dict(
            zip(
                (way.client for way in coming),
                self.trainer.train(self.server.broadcast(), orders),
                strict=True,
            )
        )
        return [self._with(way, trained.get(way.client)) for way in ways]

    def _order(self, way: Going) -> Order:
        memory = self.memories.get(way.client, Memories()).fitting(way.task)
        task = way.task.model_copy(update={"steps": way.trip.steps})
        return Order(way.client, task, NO_MEMORY if memory is None else memory)

    def _with(self, way: Going, trained: Trained | None) -> Going:
        """A way with what was trained on it; what the client remembers is kept, as on a device."""
        if trained is None:
            return way
        held = self.memories.get(way.client, Memories())
        has_memory = held.fitting(way.task) is not None
        if self.clients[way.client].strategy.remembers:
            self.memories[way.client] = held.after(way.task, trained.memory)
        base = way.task.base_round if has_memory else None
        return replace(way, trained=trained, memory_round=base)

    def collect(self, now: Round, ways: list[Going]) -> float:
        """Takes in what happens until the round closes; returns when it does."""
        for at_s, way in moments(now, ways):
            if way is not None:
                self.arrived(now, way, at_s=at_s, sink=self.server)
            if now.is_closed(at_s):
                return at_s
        raise AssertionError("everybody is in or lost: the round is closed")

    def arrived(self, now: Round, way: Going, *, at_s: float, sink: Sink) -> None:
        """An update is there, or it is clear that it will not come."""
        client = way.client
        if way.trained is None:
            now.lose(client, way.gone or "")
            return
        try:
            self._add(now, way, at_s=at_s, sink=sink)
        except RefusedUpdate as error:
            now.count_refusal(error.reason)
            now.reject(client, f"its update was refused ({error.reason.value}): {error}")

    def _add(self, now: Round, way: Going, *, at_s: float, sink: Sink) -> None:
        assert way.trained is not None
        flat = _flat(way.trained)
        check_values(flat)
        done = TrainedRound(
            work=Work(way.task, bytearray(), way.trip.download_s),
            trained=way.trained,
            memory_round=way.memory_round,
            used=way.trip.used,
            energy=way.trip.untold,
        )
        update = report(self.clients[way.client], done)
        now.check(update)
        measured = sink.add(way.client, flat, contribution=now.contribution(update))
        now.accept(
            ClientReport(
                update=update,
                arrived_seconds=at_s - now.began_s,
                upload_seconds=way.trip.upload_s,
                bytes=self.up_bytes,
            ),
            measured,
        )

    def _home(self, now: Round, way: Going, *, closed_s: float) -> None:
        """What the device knows at the end of its way: a late update is refused unread."""
        trip, device = way.trip, self.devices[way.client]
        if way.gone is not None or trip.trained_s > closed_s:
            device.done(trip, until_s=trip.trained_s, taken=False)
            return
        device.done(trip, until_s=trip.arrives_s, taken=way.client in now.accepted)
        self.telemetry.uploaded(
            way.client, at_s=trip.arrives_s, seconds=trip.upload_s, n_bytes=self.up_bytes
        )


def moments(now: Round, ways: list[Going]) -> Iterator[tuple[float, Going | None]]:
    """When something happens, and on whose way; None: the deadline.

    Who gives nothing is noticed when its connection closes, as its update was due, but not before
    the deadline: until then its round waits.
    """
    deadline_s, numbers = now.deadline_s(), count()
    found: list[tuple[float, int, Going | None]] = []
    if deadline_s is not None:
        found.append((deadline_s, next(numbers), None))
    for way in ways:
        at_s = way.trip.arrives_s
        if way.gone is not None and deadline_s is not None:
            at_s = max(at_s, deadline_s)
        found.append((at_s, next(numbers), way))
    for at_s, _, who in sorted(found, key=lambda moment: moment[:2]):
        yield at_s, who


def _flat(trained: Trained) -> Flat:
    """An update's vectors, one after another."""
    vectors = list(trained.uploads.values())
    return vectors[0] if len(vectors) == 1 else np.concatenate(vectors)
