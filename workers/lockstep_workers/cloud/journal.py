"""What a job writes down: history, clients, checkpoints, the model, its end, notices for people.

Owned by the job; nobody else uses the store. A volume that is full stops no round: the job goes on,
says so, and tries again after the next round.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import structlog
from torch import nn

from lockstep_api.records import CLOUD_MODEL_FILE, ClientRecord, ClientsRecord, RoundRecord
from lockstep_api.sessions import Registration
from lockstep_api.wire import Notice, NoticeReason, Outcome, PlanRequest
from lockstep_api.wire_types import MOST_NOTICES
from lockstep_workers.cloud.checkpoint import Checkpoint
from lockstep_workers.cloud.metrics import CloudMetrics
from lockstep_workers.cloud.store import Store
from lockstep_workers.errors import InvalidJob
from lockstep_workers.learning.constants import pack, unpack
from lockstep_workers.learning.parameters import FlatModel
from lockstep_workers.learning.rounds import Progress
from lockstep_workers.learning.strategy import ServerState

_log = structlog.get_logger()


@dataclass(slots=True)
class Journal:
    """History, clients, checkpoints and notices of one job."""

    store: Store
    metrics: CloudMetrics
    every_rounds: int
    """Rounds between two checkpoints."""
    clock: Callable[[], float] = time.monotonic
    wall_clock: Callable[[], float] = time.time
    saved_round: int = 0
    """Round of the newest checkpoint."""
    problem: str | None = None
    """Why the last checkpoint could not be written."""
    notices: list[Notice] = field(default_factory=list)
    """Not yet taken by the planner."""
    _clients: Mapping[str, ClientRecord] = field(default_factory=dict)
    """Those that are written down."""

    def notify(
        self, kind: Literal["Normal", "Warning"], reason: NoticeReason, *, message: str
    ) -> None:
        """Something that people should read; told with the next plan request."""
        log = _log.warning if kind == "Warning" else _log.info
        log(message, reason=reason.value)
        notice = Notice(type=kind, reason=reason, message=message)
        self.notices = [*self.notices, notice][-MOST_NOTICES:]

    def told(self, request: PlanRequest) -> None:
        """The planner has answered this request."""
        self.notices = [notice for notice in self.notices if notice not in request.notices]

    async def resume(self, like: ServerState) -> Checkpoint | None:
        """The newest checkpoint that can be read, of a state `like` this."""
        found = await asyncio.to_thread(self.store.resume, like)
        for problem in found.corrupt:
            self.notify("Warning", NoticeReason.CHECKPOINT_CORRUPT, message=f"checkpoint {problem}")
        if found.checkpoint is None:
            if found.corrupt:
                text = "no checkpoint can be read: the job starts at round 1"
                self.notify("Warning", NoticeReason.CHECKPOINT_CORRUPT, message=text)
            return None
        written = await asyncio.to_thread(self.store.clients)
        self._clients = {one.client: one for one in written.clients}
        progress = found.checkpoint.progress.again(found.finished)
        self.saved_round = progress.round
        again = max(0, found.finished - progress.round)
        text = f"the cloud pod goes on after round {progress.round}" + (
            f"; {again} finished rounds are done again" if again else ""
        )
        self.notify("Normal", NoticeReason.RESUMED, message=text)
        self.metrics.resumed(progress, written=found.written, now=self.wall_clock())
        return Checkpoint(progress, found.checkpoint.state)

    def constants(self, module: nn.Module) -> bytes:
        """The constants of a model, packed: those of the job's first life, which it takes over."""
        found = self.store.first_constants()
        if found is not None:
            try:
                unpack(module, found)
                return found
            except InvalidJob as error:
                text = f"the model's constants are as built anew: {error}"
                self.notify("Warning", NoticeReason.CHECKPOINT_CORRUPT, message=text)
        packed = pack(module)
        try:
            if packed:
                self.store.save_constants(packed)
        except OSError as error:
            _log.warning("constants not written to the volume", why=str(error))
        return packed

    async def finished(self, progress: Progress, state: ServerState) -> None:
        """History, and a checkpoint when one is due or the last one failed."""
        assert progress.report is not None
        assert progress.plan is not None
        try:
            record = RoundRecord.of(progress.report, progress.plan)
            await asyncio.to_thread(self.store.add, record)
        except OSError as error:
            _log.warning("round not written to the history", round=progress.round, why=str(error))
        if progress.round % self.every_rounds == 0 or self.problem is not None:
            await self.save(progress, state)

    async def met(self, clients: Sequence[Registration]) -> None:
        """The clients that a round is planned for: written down when any of them says what it did
        not say before, so once a round at most."""
        told = {one.client: ClientRecord.of(one) for one in clients}
        if all(self._clients.get(client) == one for client, one in told.items()):
            return
        known = {**self._clients, **told}
        record = ClientsRecord(clients=[known[client] for client in sorted(known)])
        try:
            await asyncio.to_thread(self.store.save_clients, record)
        except OSError as error:
            _log.warning("clients not written to the volume", why=str(error))
            return
        self._clients = known

    async def save(self, progress: Progress, state: ServerState) -> None:
        """Writes a checkpoint; one that cannot be written is told, not raised."""
        began = self.clock()
        try:
            n_bytes = await asyncio.to_thread(self.store.save, Checkpoint(progress, state))
        except OSError as error:
            why = error.strerror or error
            problem = f"the checkpoint of round {progress.round} cannot be written: {why}"
            if self.problem is None:
                self.notify("Warning", NoticeReason.CHECKPOINT_FAILED, message=problem)
            self.problem = problem
            self.metrics.checkpoint_failures.inc()
            return
        self.problem, self.saved_round = None, progress.round
        took = self.clock() - began
        self.metrics.saved(progress.round, n_bytes, seconds=took, now=self.wall_clock())

    async def save_model(self, model: FlatModel, cloud: FlatModel | None = None) -> None:
        """Writes the final model, and the cloud's half where there is one.

        Raises:
            OSError: the volume has no room for it.
        """
        await asyncio.to_thread(self.store.save_model, model)
        if cloud is not None:
            await asyncio.to_thread(self.store.save_model, cloud, CLOUD_MODEL_FILE)

    def outcome(self) -> Outcome | None:
        """How the job ended, when it has."""
        return self.store.outcome()

    def end(self, outcome: Outcome) -> None:
        """Without it a cloud pod that restarts now plays the last rounds again: no more is lost."""
        try:
            self.store.end(outcome)
        except OSError as error:
            _log.warning("outcome not written to the volume", why=str(error))
