"""What the operator does while it leads: it follows the cluster and lets Kopf hear of the jobs.

`app` runs `lead` beside the planner, in the same loop. A leader whose lease is over plans nothing
and begins no pass until it has renewed it; its writes under way end with the lease
(`Elector.left_s`). When another has the lease the process ends.
"""

import asyncio
import logging
import signal
from dataclasses import dataclass, field

import kopf

from lockstep_operator.core.model import JobKey
from lockstep_operator.election import Elector
from lockstep_operator.handlers import build_registry, operator_settings
from lockstep_operator.observe import Sources, read_job
from lockstep_operator.reconcile import Deps, PassResult
from lockstep_operator.runtime import Pass, Runtime

LOOK_AGAIN_S = 10.0
"""Until it is looked again whether a job is still another operator's."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Flags:
    """What the tasks tell each other."""

    stop: asyncio.Event = field(default_factory=asyncio.Event)
    watching: asyncio.Event = field(default_factory=asyncio.Event)
    leading: asyncio.Event = field(default_factory=asyncio.Event)
    watch_alive: bool = True

    def ready(self) -> bool:
        """A leader is ready when it watches, a candidate at once."""
        return self.watching.is_set() or not self.leading.is_set()


@dataclass(frozen=True, slots=True)
class Leader:
    """What a leader works with."""

    runtime: Runtime
    deps: Deps
    flags: Flags

    def leads(self, now: bool) -> None:
        """From now on this process leads, or does not."""
        if now:
            self.runtime.resumed()
        (self.flags.leading.set if now else self.flags.leading.clear)()
        self.deps.metrics.leader.set(now)


async def lead(leader: Leader, elector: Elector | None) -> None:
    """Watches and writes, once this process leads; returns when it does not any more."""
    if elector is None:
        leader.leads(True)
        await _watch(leader)
        return
    await elector.acquire()
    leader.leads(True)
    watch = asyncio.create_task(_watch(leader), name="watch")
    hold = asyncio.create_task(elector.hold(leader.leads), name="lease")
    try:
        await asyncio.wait({watch, hold}, return_when=asyncio.FIRST_COMPLETED)
        if not leader.flags.stop.is_set():
            leader.leads(False)  # nothing is planned from here on, and no pass begins
            await leader.runtime.shutdown()
    finally:
        leader.flags.stop.set()
        hold.cancel()
        await asyncio.gather(watch, hold, return_exceptions=True)
    watch.result()


@dataclass(frozen=True, slots=True)
class Gate:
    """Lets passes through: those over this operator's jobs, once it leads."""

    flags: Flags
    make_pass: Pass
    sources: Sources
    elector: Elector | None

    def serves(self, namespace: str) -> bool:
        """Whether this operator may write and plan for jobs of a namespace."""
        if self.elector is None:
            return self.flags.leading.is_set()
        leads = self.flags.leading.is_set() and self.elector.left_s() > 0
        return leads and self.elector.rivals.serves(namespace)

    async def __call__(self, key: JobKey) -> PassResult:
        """A pass; over a job that another operator looks after, only a look whether it is there."""
        await self.flags.leading.wait()
        if self.elector is None or self.elector.rivals.serves(key.namespace):
            return await self.make_pass(key)
        gone = await read_job(key, self.sources) is None
        return PassResult(gone=gone, requeue_in_s=LOOK_AGAIN_S)


def stop_on_signals(stop: asyncio.Event) -> None:
    """SIGTERM and SIGINT end the process in order."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)


async def _watch(leader: Leader) -> None:
    """Follow jobs and what belongs to them; once all of it is known, Kopf hears of the jobs."""
    cluster, flags = leader.deps.sources.cluster, leader.flags
    cluster.listen(leader.runtime)
    following = asyncio.create_task(cluster.run(), name="follow")
    synced = asyncio.create_task(cluster.synced(), name="synced")
    stopped = asyncio.create_task(flags.stop.wait(), name="stop")
    tasks = {following, synced, stopped}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if synced.done() and not flags.stop.is_set():
            jobs = asyncio.create_task(_watch_jobs(leader), name="kopf")
            tasks.add(jobs)
            await asyncio.wait({following, jobs}, return_when=asyncio.FIRST_COMPLETED)
            flags.stop.set()  # one of the two has ended, so the other has to
            await jobs
        if following.done():
            following.result()
    finally:
        flags.watch_alive = False
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _watch_jobs(leader: Leader) -> None:
    """Kopf; it takes tasks that were made after its own for its own, and waits for them."""
    others = asyncio.all_tasks()
    tasks = await kopf.spawn_tasks(
        registry=build_registry(leader.deps.sources.cluster.feed),
        settings=operator_settings(),
        memo=leader.runtime,
        standalone=True,
        clusterwide=True,  # of what the feed has: jobs of the namespaces that are followed
        stop_flag=leader.flags.stop,
        ready_flag=leader.flags.watching,
    )
    stop_on_signals(leader.flags.stop)  # Kopf has put its own handlers in their place
    await kopf.run_tasks(tasks, ignored=others)
