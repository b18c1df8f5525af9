"""Leader election by a Lease: only the leader watches, writes and plans; `app` runs it.

A leader that could not renew in time writes nothing more. Until somebody else has taken the lease
nobody leads, so it may go on as soon as it has renewed: `lead` hears of both. When another has
taken it `hold` returns, and `app` ends the process.

A leader renews by one call, and waits for it half as long as a renewal lasts: it goes on leading
while every call takes a third of that, and meets a connection that is dead in time to try another.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from lockstep_operator.core.election import (
    LEASE_API,
    Sighting,
    Step,
    Timing,
    holder_of,
    lease_manifest,
    next_step,
    released,
    sighted,
)
from lockstep_operator.core.model import Manifest, ObjectRef
from lockstep_operator.core.scope import scope_metadata
from lockstep_operator.errors import Conflict, KubeError, NotFound
from lockstep_operator.kube import Kube
from lockstep_operator.rivals import Rivals

logger = logging.getLogger(__name__)

_RENEWAL = frozenset({Step.RENEW})
_ALL_STEPS = _RENEWAL | {Step.CREATE, Step.TAKE}


@dataclass(slots=True)
class Elector:
    """One candidate."""

    kube: Kube
    namespace: str
    name: str
    me: str
    """Identity; unique among candidates."""
    timing: Timing = field(default_factory=Timing)
    monotonic: Callable[[], float] = time.monotonic
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    namespaces: tuple[str, ...] = ()
    """Those that are looked after; all when empty."""
    account: str = ""
    """The ServiceAccount in whose name this is; without one no other operator heeds this one."""
    rivals: Rivals = field(init=False)
    _lease: Manifest | None = None
    _seen: Sighting | None = None
    _is_known: bool = False
    """Whether `_lease` is as this process wrote it last, so that it need not be read again."""
    _tried_s: float = -math.inf
    _renewed_s: float = -math.inf

    def __post_init__(self) -> None:
        self.rivals = Rivals(self.kube, self.timing)

    async def acquire(self) -> None:
        """Returns when this process leads.

        Where others look after the same namespaces, not before they have seen that it holds its
        lease, and left them.
        """
        logger.info("%s is a candidate for lease %s/%s", self.me, self.namespace, self.name)
        since_s = math.inf
        while self.monotonic() < since_s + self.timing.lease_s:
            if not await self._tried():
                since_s = math.inf
            elif not self.rivals.overlapping:
                break
            else:
                since_s = min(since_s, self.monotonic())
            await asyncio.sleep(self._pause_s())
        logger.info("%s leads", self.me)

    async def hold(self, tell: Callable[[bool], None] = lambda leads: None) -> None:
        """Renews; returns when the lease is another's.

        `tell` hears when this process may not write any more, and when it may again.
        """
        leads = True
        while not self._is_lost(leads):
            await asyncio.sleep(min(self._pause_s(), self.left_s() if leads else math.inf))
            if leads and self.left_s() <= 0:
                leads = False
                logger.error("could not renew the lease for %g s", self.timing.renew_within_s)
                tell(leads)
            await self._tried(_ALL_STEPS if leads else _RENEWAL, leads=leads)
            if not leads and self.left_s() > 0:
                leads = True
                logger.info("%s leads again: nobody else has taken the lease", self.me)
                tell(leads)
        self._renewed_s = -math.inf
        logger.error("lost the lease to %s", holder_of(self._lease or {}) or "nobody")

    def _is_lost(self, leads: bool) -> bool:
        """Whether somebody else leads, or may have led while this process could not renew.

        A lease that is gone is made again only by a leader that still is one.
        """
        if self._lease is None:
            return not leads
        return holder_of(self._lease) != self.me

    def left_s(self) -> float:
        """Seconds for which this process may still write as the leader."""
        return self._renewed_s + self.timing.renew_within_s - self.monotonic()

    async def release(self) -> None:
        """Gives a lease that still lasts back, so that a successor takes over at once."""
        lease = self._lease
        if lease is None or holder_of(lease) != self.me or self.left_s() <= 0:
            return
        self._renewed_s = -math.inf
        try:
            async with asyncio.timeout(self.timing.retry_s):
                await self.kube.replace(released(lease))
            logger.info("%s has released the lease", self.me)
        except (KubeError, TimeoutError) as error:
            logger.warning("lease not released: %s", error)

    def _pause_s(self) -> float:
        """Until the next try: so far apart do they begin, or one after another."""
        return max(0.0, self._tried_s + self.timing.retry_s - self.monotonic())

    def _within(self, leads: bool) -> asyncio.Timeout:
        """For a step of a try; a write that ends later than a renewal lasts renews nothing."""
        most_s = self.timing.renew_within_s
        return asyncio.timeout(min(most_s / 2, self.left_s()) if leads else most_s)

    async def _tried(self, steps: frozenset[Step] = _ALL_STEPS, *, leads: bool = False) -> bool:
        """Look once and write when it is our turn; whether this process leads afterwards."""
        self._tried_s = self.monotonic()
        known, self._is_known = self._is_known and leads, False
        try:
            if not known:
                async with self._within(leads):
                    await self._look()
            step = next_step(
                self._lease, self._seen, me=self.me, now_s=self.monotonic(), timing=self.timing
            )
            if step not in steps:
                return False
            if not leads or step is not Step.RENEW:  # two that begin see each other
                async with self._within(leads):
                    await self._write(step)
            began_s = self.monotonic()
            async with self._within(leads):
                await self._renew()
        except Conflict:  # somebody else was faster: the next look shows who
            return False
        except (KubeError, TimeoutError) as error:
            logger.warning("lease: %s", str(error) or type(error).__name__)
            return False
        self._renewed_s = began_s  # the earliest moment from which others count
        self._is_known = True
        return True

    async def _renew(self) -> None:
        """Lease and others at once: that takes one call's time."""
        both = (self._write(Step.RENEW), self._look_at_others())
        for failed in await asyncio.gather(*both, return_exceptions=True):
            if isinstance(failed, BaseException):
                raise failed

    async def _look_at_others(self) -> None:
        await self.rivals.look(self._lease or {}, now_s=self.monotonic())

    async def _look(self) -> None:
        ref = ObjectRef(LEASE_API, "Lease", self.namespace, self.name)
        try:
            self._lease = await self.kube.get(ref)
        except NotFound:
            self._lease = self._seen = None
            return
        self._seen = sighted(self._seen, self._lease, now_s=self.monotonic())

    async def _write(self, step: Step) -> None:
        body = lease_manifest(
            self.name,
            self.namespace,
            me=self.me,
            now=self.clock(),
            before=self._lease,
            timing=self.timing,
        )
        body["metadata"] |= scope_metadata(self.namespaces, account=self.account)
        write = self.kube.create if step is Step.CREATE else self.kube.replace
        self._lease = await write(body)
        self._seen = sighted(self._seen, self._lease, now_s=self.monotonic())
