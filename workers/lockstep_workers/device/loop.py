"""A device's rounds: wait for work, train, upload, until the job is over.

Run by `device.main` in the main thread. The cloud pod's task either has the model with it, or names
an edge (`device.edges`) that has; there the device gets it and brings its update, and comes back.
Invariant: an update that was made is sent until it was answered, a new session with the cloud pod
has begun, or that sends the device elsewhere; a broken connection alone costs no training.
"""

import http.client
import math
import threading
import time
from dataclasses import dataclass, replace

import structlog

from lockstep_api.budget import is_used_up
from lockstep_api.sessions import ClientFailure, Refusal
from lockstep_api.wire import Task, UpdateReport
from lockstep_workers.device.cgroup import CpuCgroup
from lockstep_workers.device.connection import (
    LOST,
    Work,
    connect,
    get_constants,
    get_work,
    is_open,
    report_failure,
    send_update,
)
from lockstep_workers.device.edges import Edges
from lockstep_workers.device.messages import TrainedRound, received, report, update_body
from lockstep_workers.device.parts import Parts
from lockstep_workers.device.session import Opened
from lockstep_workers.device.spending import Account, Spent, spent
from lockstep_workers.device.split_round import SplitRounds
from lockstep_workers.device.throttle import Throttle
from lockstep_workers.entrypoints import explained
from lockstep_workers.errors import JobFailed, NoSession
from lockstep_workers.jitter import jitter
from lockstep_workers.learning.client import Trained
from lockstep_workers.learning.constants import unpack
from lockstep_workers.learning.strategy import NO_MEMORY, ClientMemory
from lockstep_workers.learning.training import Enough

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Update:
    """An update that has not been answered yet."""

    report: UpdateReport
    turn: int
    body: bytearray
    edge: str | None = None
    """For which edge; None: for the cloud pod."""
    sent_before: bool = False


class DeviceLoop:
    """The rounds of one device."""

    def __init__(self, parts: Parts) -> None:
        """The client does the learning, the rest is bookkeeping."""
        self._p = parts
        self._group = parts.job.group_of(parts.client.name)
        self._cgroup = CpuCgroup()
        self._after = 0
        self._update: Update | None = None
        self._failure: ClientFailure | None = None
        """An error of the user's code that the cloud pod has not heard of yet."""
        self._constants: bytes | None = None
        """The cloud pod's of this session, which the model has not taken over yet."""
        self._constants_of = 0
        """The session that they were asked for in."""
        self._model: bytearray | None = None
        """The last one received: the next is read into its buffer."""
        self._memories = parts.memory.read()
        self._session = Opened(0, "")
        self._edges = Edges(parts.job.edge_urls, parts.session.registration, parts.trust)
        self._account = Account(parts.job, self._group)
        self._split = SplitRounds(parts, self._account, cgroup=self._cgroup)

    def run(self) -> None:
        """Returns when the job is over."""
        self._rounds()
        self._edges.leave()
        self._p.metrics.waited(self._account.waited(time.monotonic()))

    def _rounds(self) -> None:
        backoff = threading.Event()
        while (opened := self._p.session.wait_open()) is not None:
            self._use(opened)
            try:
                if self._serve():
                    return
            except NoSession as error:
                _log.info("session is opened anew", why=str(error))
                backoff.wait(jitter(0.05, 0.5))
            except LOST as error:
                _log.info("connection lost", why=f"{type(error).__name__}: {error}")
                backoff.wait(jitter(0.05, 0.5))

    def _serve(self) -> bool:
        """Serves rounds over a new connection until it is closed; whether the job is over."""
        connection = connect(self._p.job.cloud_url, self._p.trust)
        try:
            self._take_constants(connection)
            while self._tell(connection):
                self._send(connection, self._session.key)
                if not is_open(connection):
                    return False
                work = self._get_work(connection, self._session.key, after=self._after)
                if work is None:
                    return True
                if work.task.edge is not None and work.task.cut is None:
                    self._visit(work.task, work.task.edge)
                else:
                    self._try(work)
            return True
        finally:
            connection.close()

    def _take_constants(self, connection: http.client.HTTPConnection) -> None:
        """Asks once in a session for what the model has beside its trained parameters."""
        if self._constants_of != self._session.number:
            self._constants = get_constants(
                connection, self._p.client.name, key=self._session.key, link=self._p.links.down
            )
            self._constants_of = self._session.number

    def _visit(self, task: Task, edge: str) -> None:
        """Does a task at its edge; when the edge is gone, the cloud pod knows where to go on."""
        if self._update is not None and (self._update.edge, self._update.turn) != (edge, task.turn):
            self._update = None
        try:
            there = self._edges.at(edge, self._session)
            if self._update is None:
                work = self._get_work(there.connection, there.key, after=task.turn - 1)
                if work is None:
                    raise NoSession(f"edge {edge} has ended")
                self._try(work, edge=edge)
            self._send(there.connection, there.key, edge=edge)
        except (NoSession, *LOST) as error:
            _log.info("edge lost", edge=edge, why=f"{type(error).__name__}: {error}")
            self._edges.leave()
            threading.Event().wait(jitter(0.05, 0.5))

    def _try(self, work: Work, *, edge: str | None = None) -> None:
        """Trains; an error of the user's code is told instead of an update."""
        try:
            if self._constants is not None:
                unpack(self._p.client.model.module, self._constants)
                self._constants = None
            if work.task.cut is None:
                self._model = work.body
                self._update = replace(self._train(work), edge=edge)
            elif self._split.play(work.task, key=self._session.key):
                self._after = work.task.turn
        except JobFailed as error:
            self._after = work.task.turn
            _log.error("training failed", round=work.task.round, error=str(error))
            self._failure = ClientFailure(
                client=self._p.client.name,
                incarnation=self._p.session.registration.incarnation,
                round=work.task.round,
                message=str(error),
            )

    def _tell(self, connection: http.client.HTTPConnection) -> bool:
        """Tells of a failure that nobody has heard of; whether the job goes on with this device."""
        failure = self._failure
        if failure is None:
            return True
        again = report_failure(connection, failure, key=self._session.key)
        self._failure = None
        if not again:
            _log.error("given up")
        return again

    def _use(self, opened: Opened) -> None:
        """In a new session, maybe with a new cloud pod, rounds may start from 1 again."""
        if opened.number != self._session.number:
            self._session = opened
            self._after = 0
            self._update = None

    def _get_work(
        self, connection: http.client.HTTPConnection, key: str, *, after: int
    ) -> Work | None:
        return get_work(
            connection,
            self._p.client.name,
            key=key,
            after=after,
            link=self._p.links.down,
            reuse=self._model,
        )

    def _train(self, work: Work) -> Update:
        self._p.metrics.began(work.task, seconds=work.seconds, n_bytes=len(work.body))
        began = time.monotonic()
        memory = self._memory_for(work.task)
        trained, body, used = self._spend(work, memory=memory or NO_MEMORY, began=began)
        self._remember(work.task, trained.memory)
        ended = began + used.compute_s
        joules = self._account.trained(used, began_s=began, ended_s=ended, download_s=work.seconds)
        done = TrainedRound(
            work=work,
            trained=trained,
            memory_round=None if memory is None else work.task.base_round,
            used=used,
            energy=self._account.untold,
        )
        told = report(self._p.client, done)
        self._p.metrics.trained(told, joules)
        return Update(told, work.task.turn, body)

    def _memory_for(self, task: Task) -> ClientMemory | None:
        memory = self._memories.fitting(task)
        if memory is None and task.base_round is not None and self._p.client.strategy.remembers:
            _log.warning("begins without its memory", round=task.round, of=task.base_round)
        return memory

    def _remember(self, task: Task, memory: ClientMemory) -> None:
        """Before the update is sent: should it count, its memory is there."""
        if self._p.client.strategy.remembers:
            self._memories = self._memories.after(task, memory)
            self._p.memory.write(self._memories)

    def _spend(
        self, work: Work, *, memory: ClientMemory, began: float
    ) -> tuple[Trained, bytearray, Spent]:
        """Trains and makes the body of the update, and tells what that took."""
        before, cpu = self._cgroup.read(), time.process_time()
        cores = work.task.throttle_cores()
        held = [one for one in (cores, before.quota_cores) if one is not None]
        throttle = Throttle(min(held, default=math.inf))
        what = f"training in round {work.task.round} raised"
        with explained(what, own=self._p.job.model.entrypoint):
            trained = self._p.client.train(
                received(self._p.client, work),
                work.task,
                memory=memory,
                pace=None if cores is None else throttle,
                enough=_enough(work.task, began),
            )
        body = update_body(trained)
        throttle.settle()  # under a quota too: it may have begun with a part of a period left over
        ended, cpu_s = time.monotonic(), time.process_time() - cpu
        used = spent(
            self._group,
            before=before,
            after=self._cgroup.read(),
            compute_s=ended - began,
            cpu_s=cpu_s,
            throttle_cores=cores,
        )
        return trained, body, used

    def _send(
        self, connection: http.client.HTTPConnection, key: str, *, edge: str | None = None
    ) -> None:
        """Sends the update that waits to be sent there, if there is one."""
        update = self._update
        if update is None or update.edge != edge:
            return
        self._update = replace(update, sent_before=True)
        answer = send_update(
            connection,
            update.report,
            key=key,
            body=update.body,
            link=self._p.links.up,
        )
        self._update = None
        self._after = update.turn
        # The first try may have arrived although its answer did not.
        again = update.sent_before and answer.reason == Refusal.DUPLICATE
        self._account.uploaded(answer.seconds, taken=answer.accepted or again)
        self._p.metrics.uploaded(seconds=answer.seconds, n_bytes=len(update.body))
        if not answer.accepted and not again:
            _log.warning("update refused", round=update.report.round, why=answer.message)


def _enough(task: Task, began_s: float) -> Enough | None:
    """Says when a training that began then has used its budget up; None: it has none."""
    budget_s = task.budget_seconds
    if budget_s is None:
        return None
    return lambda: is_used_up(budget_s, elapsed_s=time.monotonic() - began_s)
