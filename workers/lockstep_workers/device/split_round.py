"""A device's part of a round of split training, over one connection to its edge or several.

Called by `device.loop` with a task that has a cut. The edge says which step comes; the device makes
each of its two passes last as its frequency says (`throttle.Pacer`), since no CPU limit does. When
the connection breaks, the cloud pod is asked again: it names the same edge and turn while they
stand, and what was spent so far is reckoned on.
Invariant: a part is told once, with its END; it counts once the edge has taken that, or has said
that it takes nothing more.
"""

import math
import threading
import time
from dataclasses import dataclass, field

import structlog

from lockstep_api.sessions import Refusal, key_at_edge
from lockstep_api.spec import FrontUpdate
from lockstep_api.wire import Moved, Task, UpdateReport
from lockstep_workers.device.cgroup import CpuCgroup, CpuReading
from lockstep_workers.device.connection import LOST
from lockstep_workers.device.messages import SplitDone, split_report
from lockstep_workers.device.parts import Parts
from lockstep_workers.device.spending import Account, Spent, spent
from lockstep_workers.device.split_connection import SplitConnection, open_split
from lockstep_workers.device.throttle import Pacer
from lockstep_workers.entrypoints import explained
from lockstep_workers.errors import InvalidJob, JobFailed, NoSession, RefusedUpdate
from lockstep_workers.jitter import jitter
from lockstep_workers.learning.front import FrontHalf, front_half
from lockstep_workers.learning.halves import cut_shape, halves
from lockstep_workers.split_frames import Flat, Shape

_log = structlog.get_logger()
_FIRST_BACKOFF_S, _MAX_BACKOFF_S = 0.05, 2.0
_NOTHING = Moved(up_bytes=0, down_bytes=0, up_seconds=0, down_seconds=0, wait_seconds=0)


@dataclass(slots=True, kw_only=True)
class Part:
    """What a device has done of a round so far."""

    task: Task
    key: str = field(repr=False)
    front: FrontHalf
    shape: Shape
    pacer: Pacer
    cores: float | None
    """What it keeps itself to; None: nothing holds it."""
    before: CpuReading
    began_s: float
    moved: Moved = _NOTHING
    """Over connections that have ended."""
    steps: set[int] = field(default_factory=set)
    samples: int = 0
    told: UpdateReport | None = None
    """What it took, once it is over."""

    def is_of(self, task: Task, key: str) -> bool:
        """Whether it is what a task asks for, in the same session."""
        return (self.task.turn, self.task.edge, self.key) == (task.turn, task.edge, key)


class SplitRounds:
    """The split rounds of one device."""

    def __init__(self, parts: Parts, account: Account, *, cgroup: CpuCgroup) -> None:
        """`account` is the device's."""
        self._p, self._account, self._cgroup = parts, account, cgroup
        self._group = parts.job.group_of(parts.client.name)
        self._part: Part | None = None
        self._backoff_s = _FIRST_BACKOFF_S

    @property
    def _own(self) -> str | None:
        """The user's function that made the front half."""
        model = self._p.job.model
        return model.front or model.entrypoint

    def play(self, task: Task, *, key: str) -> bool:
        """The device's part of a task; False: the connection broke, and the cloud pod is asked
        again.

        Raises:
            InvalidJob: the user's code failed, or there is no such edge.
        """
        if self._part is not None and not self._part.is_of(task, key):
            self._settle(self._part)
            self._part = None
        part = self._part = self._part or self._begin(task, key)
        try:
            self._try(part, key)
            taken = True
        except RefusedUpdate as error:
            _log.warning("refused by its edge", round=task.round, edge=task.edge,
                         reason=error.reason.value, why=str(error))  # fmt: skip
            if error.reason is Refusal.TOO_SLOW:
                return self._wait()
            taken = error.reason is Refusal.DUPLICATE
        except (NoSession, *LOST) as error:
            _log.info("not with its edge", edge=task.edge, why=f"{type(error).__name__}: {error}")
            return self._wait()
        except JobFailed:
            self._part = None
            raise
        self._settle(part)
        self._account.uploaded(0.0, taken=taken)
        self._part, self._backoff_s = None, _FIRST_BACKOFF_S
        return True

    def _try(self, part: Part, key: str) -> None:
        """Serves over one connection until the edge has taken the end."""
        with self._open(part, key) as edge:
            try:
                self._serve(part, edge)
            finally:
                part.moved = _sum(part.moved, edge.moved())

    def _begin(self, task: Task, key: str) -> Part:
        """A part of which nothing is done."""
        assert task.cut is not None
        assert task.batch_size is not None
        client, split = self._p.client, self._p.job.split
        assert split is not None
        parted = halves(client.model, task.cut)
        values = cut_shape(parted.front, client.examples.inputs.shape[1:], entrypoint=self._own)
        before = self._cgroup.read()
        held = [one for one in (task.throttle_cores(), before.quota_cores) if one is not None]
        self._p.metrics.began(task, seconds=0.0, n_bytes=0)
        _log.info("split round begins", round=task.round, turn=task.turn, edge=task.edge)
        return Part(
            task=task,
            key=key,
            front=front_half(client, task.cut, update=split.front_update),
            shape=Shape(
                round=task.round,
                rows=task.batch_size,
                values=math.prod(values),
                front_values=parted.n_front,
                wire=split.wire_dtype,
                keeps_front=split.front_update is FrontUpdate.ROUND,
            ),
            pacer=Pacer(min(held, default=math.inf)),
            cores=min(held, default=None),
            before=before,
            began_s=time.monotonic(),
        )

    def _open(self, part: Part, key: str) -> SplitConnection:
        edge = part.task.edge or ""
        url = self._p.job.edge_urls.get(edge)
        if url is None:
            raise InvalidJob(f"the job's settings have no edge {part.task.edge}")
        return open_split(
            url,
            self._p.client.name,
            key=key_at_edge(key, edge),
            shape=part.shape,
            links=self._p.links,
            trust=self._p.trust,
        )

    def _serve(self, part: Part, edge: SplitConnection) -> None:
        """Steps until the edge says that there is none any more, then the end."""
        while (order := edge.receive_front()) is not None:
            self._backoff_s = _FIRST_BACKOFF_S
            part.front.use(order[1])
            if not self._steps(part, edge, first=order[0]):
                break
        moved = part.moved
        part.moved = _sum(moved, edge.moved())
        report = self._settle(part)
        part.moved = moved
        edge.end(report, part.front.front)

    def _steps(self, part: Part, edge: SplitConnection, *, first: int) -> bool:
        """The steps that follow a front: one, or all where the device steps its own; False: the
        edge has said that there is no further one."""
        step, shape = first, part.shape
        while True:
            self._forward(part, edge, step=step)
            gradient = edge.receive_gradient(step)
            if gradient is None:
                return False
            contribution = self._backward(part, gradient, step=step)
            if not shape.keeps_front:
                edge.send_front_gradient(step, contribution)
            part.steps.add(step)
            step += 1
            if not shape.keeps_front or step >= part.task.steps:
                return True

    def _forward(self, part: Part, edge: SplitConnection, *, step: int) -> None:
        what = f"the front half, in step {step + 1} of round {part.task.round}, raised"
        with part.pacer.piece(), explained(what, own=self._own):
            made, labels = part.front.forward(part.task.round, step, batch_size=part.shape.rows)
        part.samples += len(labels)
        edge.send_activations(step, made, labels=labels)

    def _backward(self, part: Part, gradient: Flat, *, step: int) -> Flat:
        what = f"the front half's gradient, in step {step + 1} of round {part.task.round}, raised"
        with part.pacer.piece(), explained(what, own=self._own):
            return part.front.backward(gradient)

    def _settle(self, part: Part) -> UpdateReport:
        """What a part took, reckoned once: one that was not taken is told with the next."""
        if part.told is not None:
            return part.told
        used, ended_s = self._used(part), time.monotonic()
        self._account.uploaded(part.moved.up_seconds, taken=False)
        joules = self._account.trained(
            used,
            began_s=part.began_s,
            ended_s=ended_s,
            download_s=0.0,
            waited_s=ended_s - part.began_s - used.compute_s,
        )
        part.told = split_report(
            self._p.client,
            SplitDone(
                task=part.task,
                steps=len(part.steps),
                samples=part.samples,
                moved=part.moved,
                used=used,
                energy=self._account.untold,
            ),
        )
        self._p.metrics.split(part.told, joules)
        return part.told

    def _used(self, part: Part) -> Spent:
        return spent(
            self._group,
            before=part.before,
            after=self._cgroup.read(),
            compute_s=part.pacer.compute_s,
            cpu_s=part.pacer.cpu_s,
            throttle_cores=part.cores,
        )

    def _wait(self) -> bool:
        """Lets a moment pass before the cloud pod is asked again."""
        threading.Event().wait(jitter(0.5, 1.0) * self._backoff_s)
        self._backoff_s = min(_MAX_BACKOFF_S, 2 * self._backoff_s)
        return False


def _sum(one: Moved, other: Moved) -> Moved:
    return Moved(
        up_bytes=one.up_bytes + other.up_bytes,
        down_bytes=one.down_bytes + other.down_bytes,
        up_seconds=one.up_seconds + other.up_seconds,
        down_seconds=one.down_seconds + other.down_seconds,
        wait_seconds=one.wait_seconds + other.wait_seconds,
    )
