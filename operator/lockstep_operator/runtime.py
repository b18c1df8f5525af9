"""One loop a job: waits to be woken, makes a pass, waits again; handlers and planner wake it.

A job's passes never overlap. The first wake after a quiet time starts one at once; those within the
second after it make one together, but for a pass that somebody waits for. A failed pass is repeated
with jittered backoff, an undisturbed job is looked at again after the resync time. A loop ends when
its job is gone, and at shutdown, after which none begins.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from lockstep_api import names
from lockstep_api.status import Phase
from lockstep_operator.core.backoff import backoff_s
from lockstep_operator.core.model import JobKey
from lockstep_operator.errors import KubeError, Throttled, Unavailable
from lockstep_operator.metrics import Metrics
from lockstep_operator.reconcile import PassResult

MIN_INTERVAL_S = 1.0
"""Least time between the end of a pass and the next one over the same job."""

logger = logging.getLogger(__name__)

Pass = Callable[[JobKey], Awaitable[PassResult]]


async def wait_for(event: asyncio.Event, timeout_s: float | None) -> None:
    """Returns when the event is set, or the time is over."""
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return


@dataclass(frozen=True, slots=True)
class Pace:
    """How time passes for the loops."""

    min_interval_s: float = MIN_INTERVAL_S
    monotonic: Callable[[], float] = time.monotonic
    wait: Callable[[asyncio.Event, float | None], Awaitable[None]] = wait_for


@dataclass(slots=True)
class _Loop:
    """A job's loop and who waits for its next pass."""

    woken: asyncio.Event = field(default_factory=asyncio.Event)
    hurried: asyncio.Event = field(default_factory=asyncio.Event)
    """Somebody waits for the next pass."""
    rests_until: float = float("-inf")
    """When the next pass may begin, unless somebody waits for it."""
    waiting: list[asyncio.Future[PassResult]] = field(default_factory=list)
    failures: int = 0
    without_place: bool = False
    task: asyncio.Task[None] | None = None


class Runtime:
    """The loops of all jobs."""

    def __init__(
        self,
        make_pass: Pass,
        metrics: Metrics,
        *,
        resync_s: float,
        jitter: Callable[[], float] = random.random,
        pace: Pace = Pace(),
    ) -> None:
        self._make_pass = make_pass
        self._metrics = metrics
        self._resync_s = resync_s
        self._jitter = jitter
        self._pace = pace
        self._closed = False
        self._loops: dict[JobKey, _Loop] = {}
        self._by_label: dict[JobKey, JobKey] = {}
        self._last_pass = pace.monotonic()

    def __copy__(self) -> "Runtime":
        """Kopf copies its memo for every object; all share the one runtime."""
        return self

    def seen(self, key: JobKey, *, gone: bool = False) -> None:
        """A job exists or was changed: start or wake its loop. A gone one finds out by itself."""
        if key not in self._loops:
            if gone or self._closed:
                return
            loop = self._loops[key] = _Loop()
            self._by_label[_label(key)] = key
            loop.task = asyncio.create_task(self._run(key, loop), name=f"job {key.name}")
        self._loops[key].woken.set()

    def wake(self, key: JobKey) -> None:
        """Something of a job changed; it is named as its label names it, not always by its name."""
        key = self._by_label.get(key, key)
        if key in self._loops:
            self._loops[key].woken.set()

    def room_freed(self) -> None:
        """A pod of some job is gone: jobs that found no room look again."""
        for loop in self._loops.values():
            if loop.without_place:
                loop.woken.set()

    async def pass_now(self, key: JobKey) -> PassResult:
        """Make a pass that begins after this call, and return how it went.

        Raises:
            KubeError: the pass failed, or there are none any more.
        """
        if self._closed:
            raise Unavailable("this operator is stopping")
        self.seen(key)
        done: asyncio.Future[PassResult] = asyncio.get_running_loop().create_future()
        self._loops[key].waiting.append(done)
        self._loops[key].hurried.set()
        return await done

    def resumed(self) -> None:
        """Passes are due from now on: none was while this process did not lead."""
        self._last_pass = self._pace.monotonic()

    @property
    def jobs(self) -> int:
        return len(self._loops)

    @property
    def queue_depth(self) -> int:
        return sum(loop.woken.is_set() for loop in list(self._loops.values()))

    @property
    def last_pass_age_s(self) -> float:
        """Seconds since a pass was finished, or failed in a way that was handled."""
        return self._pace.monotonic() - self._last_pass

    async def shutdown(self) -> None:
        """End all loops, for good; passes under way are cancelled."""
        self._closed = True
        tasks = [loop.task for loop in self._loops.values() if loop.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, key: JobKey, loop: _Loop) -> None:
        wait_s: float | None = None
        try:
            while True:
                await self._rest(loop, wait_s)
                loop.woken.clear()
                loop.hurried.clear()
                wait_s = await self._one_pass(key, loop)
                if wait_s is None and not loop.woken.is_set():
                    return
        finally:
            del self._loops[key]
            self._by_label.pop(_label(key), None)
            for future in loop.waiting:
                future.cancel()

    async def _rest(self, loop: _Loop, wait_s: float | None) -> None:
        """Until the loop is woken or the time is over, but not before its pause is."""
        await self._pace.wait(loop.woken, wait_s)
        pause_s = loop.rests_until - self._pace.monotonic()
        if pause_s > 0:
            await self._pace.wait(loop.hurried, pause_s)

    async def _one_pass(self, key: JobKey, loop: _Loop) -> float | None:
        """Make a pass; returns the seconds until the next one, None when the job is gone."""
        waiting, loop.waiting = loop.waiting, []
        try:
            with self._metrics.reconcile_seconds.time():
                outcome = await self._make_pass(key)
        except asyncio.CancelledError:
            _fail(waiting, asyncio.CancelledError())
            raise
        except Exception as error:  # noqa: BLE001  the loop boundary: a loop must never die
            _fail(waiting, error)
            return self._after_error(key, loop, error=error)
        finally:
            self._last_pass = self._pace.monotonic()
            loop.rests_until = self._last_pass + self._pace.min_interval_s
        _answer(waiting, outcome)
        return self._after(key, loop, outcome=outcome)

    def _after(self, key: JobKey, loop: _Loop, *, outcome: PassResult) -> float | None:
        if outcome.gone:
            return None
        loop.without_place = outcome.phase is Phase.PENDING
        if outcome.failure is not None:
            return self._after_error(key, loop, error=outcome.failure, counted=True)
        loop.failures = 0
        resync_s = self._resync_s * (0.9 + 0.2 * self._jitter())
        return resync_s if outcome.requeue_in_s is None else min(outcome.requeue_in_s, resync_s)

    def _after_error(
        self, key: JobKey, loop: _Loop, *, error: Exception, counted: bool = False
    ) -> float:
        """Log it, count it and say how long to wait."""
        if not counted:
            self._metrics.reconcile_errors.labels(type(error).__name__).inc()
        known = isinstance(error, KubeError)
        logger.warning(
            "job %s/%s: %s", key.namespace, key.name, error, exc_info=None if known else error
        )
        loop.failures += 1
        wait_s = backoff_s(loop.failures, self._jitter())
        return max(wait_s, error.retry_after) if isinstance(error, Throttled) else wait_s


def _label(key: JobKey) -> JobKey:
    """A job as its pods' label names it."""
    return JobKey(key.namespace, names.label_value(key.name))


def _answer(waiting: list[asyncio.Future[PassResult]], outcome: PassResult) -> None:
    for future in waiting:
        if not future.done():
            future.set_result(outcome)


def _fail(waiting: list[asyncio.Future[PassResult]], error: BaseException) -> None:
    for future in waiting:
        if future.done():
            continue
        if isinstance(error, asyncio.CancelledError):
            future.cancel()
        else:
            future.set_exception(error)
