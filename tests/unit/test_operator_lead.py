"""Who leads watches; who does not any more neither watches nor begins a pass."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest

from lockstep_operator import lead as leading
from lockstep_operator.core.election import Timing, lease_manifest
from lockstep_operator.core.model import JobKey
from lockstep_operator.election import Elector
from lockstep_operator.errors import Unavailable
from lockstep_operator.lead import Flags, Gate, Leader, lead
from lockstep_operator.reconcile import PassResult
from lockstep_operator.runtime import Pace, Runtime
from tests.support.clock import Hand, settled
from tests.support.kube import KEY, NOW, FakeKube, cluster_with, make_deps

FAST = Timing(lease_s=0.6, renew_within_s=0.3, retry_s=0.05)
STEP_S = 10.0


@dataclass
class Setup:
    """A leader whose Kopf only says that it has begun, and waits for the end."""

    kube: FakeKube
    passes: list[JobKey] = field(default_factory=list)
    flags: Flags = field(default_factory=Flags)
    time: Hand = field(default_factory=Hand)
    """Of the passes."""

    def __post_init__(self) -> None:
        deps = make_deps(self.kube)
        one_pass = Gate(self.flags, self.one_pass, sources=deps.sources, elector=None)
        pace = Pace(monotonic=self.time)
        self.runtime = Runtime(one_pass, deps.metrics, resync_s=1000.0, pace=pace)
        self.leader = Leader(self.runtime, deps, self.flags)

    async def one_pass(self, key: JobKey) -> PassResult:
        self.passes.append(key)
        return PassResult()

    async def watch_jobs(self, leader: Leader) -> None:
        self.flags.watching.set()
        await self.flags.stop.wait()


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch) -> Setup:
    made = Setup(cluster_with())
    monkeypatch.setattr(leading, "_watch_jobs", made.watch_jobs)
    return made


async def wait(event: asyncio.Event) -> None:
    await asyncio.wait_for(event.wait(), STEP_S)


async def cut_off(setup: Setup) -> asyncio.Task[None]:
    """A leader that could not renew in time: `lead`, which goes on."""
    clock = Hand()
    elector = Elector(setup.kube, "lab", "lock", "a", FAST, clock)
    running = asyncio.create_task(lead(setup.leader, elector))
    await wait(setup.flags.watching)
    setup.kube.fail = lambda verb, name: Unavailable("no route") if name == "lock" else None
    clock.now_s += FAST.renew_within_s
    async with asyncio.timeout(STEP_S):
        while setup.flags.leading.is_set():  # noqa: ASYNC110 - cleared, which no event tells
            await asyncio.sleep(0.01)
    return running


async def test_a_leader_that_lost_its_lease_ends_and_begins_no_pass(setup: Setup) -> None:
    elector = Elector(setup.kube, "lab", "lock", "a", FAST)
    running = asyncio.create_task(lead(setup.leader, elector))
    await wait(setup.flags.watching)
    assert setup.flags.leading.is_set()
    taken = lease_manifest("lock", "lab", me="b", now=NOW, before=None, timing=FAST)
    setup.kube.put(taken)
    await asyncio.wait_for(running, STEP_S)
    assert setup.flags.stop.is_set()
    assert not setup.flags.leading.is_set()
    assert elector.left_s() <= 0
    setup.runtime.seen(KEY)
    await asyncio.sleep(0)
    assert (setup.runtime.jobs, setup.passes) == (0, [])


async def test_a_leader_that_cannot_renew_waits_with_its_passes_and_goes_on(setup: Setup) -> None:
    running = await cut_off(setup)
    setup.runtime.seen(KEY)
    await settled()
    assert (setup.runtime.jobs, setup.passes) == (1, [])
    assert not running.done()
    setup.kube.fail = lambda verb, name: None
    await wait(setup.flags.leading)
    await settled()
    assert setup.passes == [KEY]
    setup.flags.stop.set()
    await setup.runtime.shutdown()
    await asyncio.wait_for(running, STEP_S)


async def test_the_time_in_which_a_leader_could_not_renew_is_none_without_a_pass(
    setup: Setup,
) -> None:
    """Or its probes would have it ended just as it leads again."""
    running = await cut_off(setup)
    setup.time.now_s += 10_000
    assert setup.runtime.last_pass_age_s >= 10_000
    setup.kube.fail = lambda verb, name: None
    await wait(setup.flags.leading)
    assert setup.runtime.last_pass_age_s == 0
    setup.flags.stop.set()
    await asyncio.wait_for(running, STEP_S)


async def test_a_leader_that_is_stopped_while_it_cannot_renew_ends_at_once(setup: Setup) -> None:
    running = await cut_off(setup)
    running.cancel()  # as `app` does with one that does not lead
    await asyncio.gather(running, return_exceptions=True)
    assert setup.flags.stop.is_set()
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert not names & {"watch", "lease", "follow"}


async def test_jobs_are_watched_only_when_all_that_belongs_to_them_was_listed(
    setup: Setup,
) -> None:
    listed = asyncio.Event()

    def fail(verb: str, name: str) -> Any:
        return None if listed.is_set() else Unavailable("not yet")

    setup.kube.fail = fail
    running = asyncio.create_task(lead(setup.leader, None))
    await asyncio.sleep(0.1)
    assert not setup.flags.watching.is_set()
    listed.set()
    await wait(setup.flags.watching)
    setup.flags.stop.set()
    await asyncio.wait_for(running, STEP_S)


async def test_what_breaks_the_following_of_the_cluster_ends_the_process(setup: Setup) -> None:
    def fail(verb: str, name: str) -> Any:
        raise ValueError("a bug")

    running = asyncio.create_task(lead(setup.leader, None))
    await wait(setup.flags.watching)
    setup.kube.fail = fail
    setup.kube.break_watches()
    with pytest.raises(ValueError, match="a bug"):
        await asyncio.wait_for(running, STEP_S)
    assert setup.flags.stop.is_set()
    assert not setup.flags.watch_alive
