"""What a client remembers, by the round that it is of, and which of it fits a server's state. Pure.

A device keeps it (`device.memory`), and so may whoever plays rounds in one process. A server that
goes on from a checkpoint is behind its clients, who may have given updates that it knows nothing of
any more; a client does not know by itself whether its last update counted. So each task names the
round of the client's last update that is in the model, and what is remembered from there fits.
Invariant: of every version, the update that it came with is in the model or may yet be.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from lockstep_workers.learning.strategy import ClientMemory


class BasedTask(Protocol):
    """A task that says what its model has of this client; a `lockstep_api.wire.Task` is one."""

    @property
    def round(self) -> int:
        """The round, from 1."""

    @property
    def base_round(self) -> int | None:
        """The round of the client's last update that is in the model; None: none is."""

    @property
    def saved_round(self) -> int:
        """The round that the job goes on from, should its server be lost now."""


@dataclass(frozen=True, slots=True)
class Memories:
    """Versions of what a client remembers, each by the round of the update that it came with."""

    versions: Mapping[int, ClientMemory] = field(default_factory=dict)

    def fitting(self, task: BasedTask) -> ClientMemory | None:
        """What fits the model of a task; None: there is nothing, or it has been lost."""
        return None if task.base_round is None else self.versions.get(task.base_round)

    def after(self, task: BasedTask, memory: ClientMemory) -> "Memories":
        """Adds what a task's training left behind, and drops what nobody can ask for any more.

        Kept are the version that fits the task, which fits the next one too should this update not
        count, and the one that fits the state that a lost server goes on from.
        """
        base = task.base_round or 0
        counted = {number: kept for number, kept in self.versions.items() if number <= base}
        saved = max((number for number in counted if number <= task.saved_round), default=None)
        needed = {number: counted[number] for number in counted if number in (base, saved)}
        return Memories({**needed, task.round: memory})
