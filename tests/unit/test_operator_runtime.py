"""The loops: one pass at a time, woken by events, repeated after failures, ended with the job."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from prometheus_client import CollectorRegistry

from lockstep_api import names
from lockstep_api.status import Phase
from lockstep_operator.core.backoff import backoff_s
from lockstep_operator.core.model import JobKey, Manifest
from lockstep_operator.errors import Refused, Throttled, Unavailable
from lockstep_operator.kube import ref_of
from lockstep_operator.metrics import Metrics
from lockstep_operator.reconcile import PassResult
from lockstep_operator.runtime import Pace, Runtime
from tests.support.clock import FakeTime, settled
from tests.support.kube import FakeKube, cluster_of, device_pod
from tests.support.patience import PATIENCE_S

KEY = JobKey("lab", "digits")


class Passes:
    """A pass that tells when it was made and answers from a list, then with `PassResult()`."""

    def __init__(self, *answers: PassResult | Exception) -> None:
        self.answers = list(answers)
        self.made: asyncio.Queue[JobKey] = asyncio.Queue()
        self.gate: asyncio.Event | None = None
        self.under_way = 0

    async def __call__(self, key: JobKey) -> PassResult:
        self.under_way += 1
        assert self.under_way == 1
        self.made.put_nowait(key)
        if self.gate is not None:
            await self.gate.wait()
        self.under_way -= 1
        answer = self.answers.pop(0) if self.answers else PassResult()
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def next(self) -> JobKey:
        async with asyncio.timeout(PATIENCE_S):
            return await self.made.get()


def pod_of(job: str) -> Manifest:
    """A pod of a job by its label."""
    pod = device_pod("pod")
    pod["metadata"]["labels"][names.JOB_LABEL] = names.label_value(job)
    return pod


def following(runtime: Runtime) -> FakeKube:
    """A cluster whose changes wake the runtime's loops."""
    kube = FakeKube()
    cluster_of(kube).listen(runtime)
    return kube


Start = Callable[..., Runtime]
RESTLESS = Pace(min_interval_s=0.0)


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Makes runtimes and ends them."""
    started: list[Runtime] = []

    def make(
        passes: Callable[[JobKey], Awaitable[PassResult]],
        resync_s: float = 1000.0,
        pace: Pace = RESTLESS,
    ) -> Runtime:
        metrics = Metrics(CollectorRegistry())
        started.append(Runtime(passes, metrics, resync_s=resync_s, jitter=lambda: 0.0, pace=pace))
        return started[-1]

    yield make
    for runtime in started:
        await runtime.shutdown()


async def test_a_seen_job_gets_a_pass(start: Start) -> None:
    passes = Passes()
    start(passes).seen(KEY)
    assert await passes.next() == KEY


async def test_waking_makes_another_pass(start: Start) -> None:
    passes = Passes()
    runtime = start(passes)
    runtime.seen(KEY)
    await passes.next()
    runtime.wake(KEY)
    await passes.next()


async def test_many_wakes_in_a_pass_make_one_more(start: Start) -> None:
    passes = Passes()
    passes.gate = asyncio.Event()
    runtime = start(passes)
    runtime.seen(KEY)
    await passes.next()
    for _ in range(5):
        runtime.wake(KEY)
    assert runtime.queue_depth == 1
    passes.gate.set()
    await passes.next()
    await runtime.pass_now(KEY)
    assert passes.made.qsize() == 1


async def test_a_pod_that_is_gone_wakes_the_jobs_without_a_place(start: Start) -> None:
    other = JobKey("lab", "other")
    passes = Passes(PassResult(phase=Phase.PENDING), PassResult(phase=Phase.STARTING))
    runtime = start(passes)
    await runtime.pass_now(KEY)
    await runtime.pass_now(other)
    kube = following(runtime)
    kube.put(pod_of("third"))
    kube.remove(ref_of(pod_of("third")))
    assert [await passes.next() for _ in range(3)] == [KEY, other, KEY]
    assert runtime.queue_depth == 0


@pytest.mark.parametrize("name", ["digits", "digits-" * 12 + "x"])
async def test_a_pod_wakes_its_job_by_the_label(start: Start, name: str) -> None:
    key = JobKey("lab", name)
    passes = Passes()
    runtime = start(passes)
    runtime.seen(JobKey("elsewhere", name))
    runtime.seen(key)
    assert {await passes.next(), await passes.next()} == {key, JobKey("elsewhere", name)}
    following(runtime).put(pod_of(name))
    assert await passes.next() == key
    assert runtime.queue_depth == 0


async def test_pods_of_unknown_jobs_wake_nothing(start: Start) -> None:
    runtime = start(Passes())
    runtime.wake(KEY)
    assert runtime.jobs == 0


async def test_a_deleted_job_that_is_unknown_starts_nothing(start: Start) -> None:
    runtime = start(Passes())
    runtime.seen(KEY, gone=True)
    assert runtime.jobs == 0


async def test_the_loop_ends_when_the_job_is_gone(start: Start) -> None:
    runtime = start(Passes(PassResult(gone=True)))
    assert (await runtime.pass_now(KEY)).gone
    await asyncio.sleep(0)
    assert runtime.jobs == 0


async def test_a_long_name_is_woken_by_its_label(start: Start) -> None:
    long = JobKey("lab", "x" * 100)
    passes = Passes()
    runtime = start(passes)
    runtime.seen(long)
    await passes.next()
    runtime.wake(JobKey("lab", names.label_value(long.name)))
    assert await passes.next() == long


async def test_an_undisturbed_job_is_looked_at_again(start: Start) -> None:
    passes = Passes()
    start(passes, resync_s=0.01).seen(KEY)
    await passes.next()
    await passes.next()


async def test_a_pass_can_ask_for_another(start: Start) -> None:
    passes = Passes(PassResult(requeue_in_s=0.01))
    start(passes).seen(KEY)
    await passes.next()
    await passes.next()


@pytest.mark.parametrize("error", [Unavailable("gone"), ValueError("a bug")])
async def test_a_failed_pass_is_repeated(start: Start, error: Exception) -> None:
    passes = Passes(error)
    start(passes).seen(KEY)
    await passes.next()
    await passes.next()


async def test_a_partly_failed_pass_is_repeated(start: Start) -> None:
    passes = Passes(PassResult(failure=Refused("quota")))
    start(passes).seen(KEY)
    await passes.next()
    await passes.next()


async def test_an_event_cuts_the_backoff_short(start: Start) -> None:
    passes = Passes(Throttled("slow down", retry_after=900))
    runtime = start(passes)
    runtime.seen(KEY)
    await passes.next()
    runtime.wake(KEY)
    await passes.next()


async def test_pass_now_returns_the_outcome_of_a_new_pass(start: Start) -> None:
    asked = PassResult(requeue_in_s=7.0)
    passes = Passes(PassResult(), asked)
    passes.gate = asyncio.Event()
    runtime = start(passes)
    runtime.seen(KEY)
    await passes.next()
    waiting = asyncio.create_task(runtime.pass_now(KEY))
    await asyncio.sleep(0)
    passes.gate.set()
    assert await waiting is asked


async def test_pass_now_raises_what_went_wrong(start: Start) -> None:
    with pytest.raises(Unavailable):
        await start(Passes(Unavailable("gone"))).pass_now(KEY)


async def test_a_caller_that_leaves_disturbs_nobody(start: Start) -> None:
    passes = Passes(Unavailable("gone"))
    passes.gate = asyncio.Event()
    runtime = start(passes)
    waiting = asyncio.create_task(runtime.pass_now(KEY))
    await passes.next()
    waiting.cancel()
    passes.gate.set()
    await passes.next()


async def test_shutdown_ends_passes_under_way(start: Start) -> None:
    passes = Passes()
    passes.gate = asyncio.Event()
    runtime = start(passes)
    waiting = asyncio.create_task(runtime.pass_now(KEY))
    await passes.next()
    await runtime.shutdown()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert runtime.jobs == 0


async def test_after_shutdown_no_loop_begins(start: Start) -> None:
    passes = Passes()
    runtime = start(passes)
    await runtime.shutdown()
    runtime.seen(KEY)
    with pytest.raises(Unavailable, match="stopping"):
        await runtime.pass_now(KEY)
    await settled()
    assert (runtime.jobs, passes.made.qsize()) == (0, 0)


def slow(start: Start, passes: Passes, clock: FakeTime) -> Runtime:
    """A runtime with the usual pause between passes, and a clock that the test moves."""
    return start(passes, pace=Pace(monotonic=clock.monotonic, wait=clock.wait))


async def test_wakes_within_a_second_of_a_pass_make_one_pass_after_it(start: Start) -> None:
    passes, clock = Passes(), FakeTime()
    runtime = slow(start, passes, clock)
    runtime.seen(KEY)
    await settled()
    assert passes.made.qsize() == 1, "the first wake starts at once"
    for _ in range(50):
        runtime.wake(KEY)
        await clock.move(0.019)
    assert passes.made.qsize() == 1
    await clock.move(0.06)
    assert passes.made.qsize() == 2
    await clock.move(10.0)
    assert passes.made.qsize() == 2


async def test_a_wake_after_a_quiet_time_starts_at_once(start: Start) -> None:
    passes, clock = Passes(), FakeTime()
    runtime = slow(start, passes, clock)
    runtime.seen(KEY)
    await clock.move(1.0)
    runtime.wake(KEY)
    await settled()
    assert passes.made.qsize() == 2


async def test_a_pass_that_somebody_waits_for_does_not_rest(start: Start) -> None:
    passes, clock = Passes(), FakeTime()
    runtime = slow(start, passes, clock)
    runtime.seen(KEY)
    await settled()
    runtime.wake(KEY)
    await settled()
    waiting = asyncio.create_task(runtime.pass_now(KEY))
    await settled()
    assert waiting.done()
    assert (passes.made.qsize(), clock.now) == (2, 0.0)


async def test_a_pass_that_asks_for_another_at_once_rests_too(start: Start) -> None:
    passes, clock = Passes(*[PassResult(requeue_in_s=0.001)] * 20), FakeTime()
    slow(start, passes, clock).seen(KEY)
    for _ in range(8):
        await clock.move(0.25)
    assert passes.made.qsize() == 3


def test_backoff_doubles_up_to_a_minute() -> None:
    assert [backoff_s(n, 1.0) for n in (1, 2, 3, 7, 50)] == [1, 2, 4, 60, 60]
    assert backoff_s(3, 0.0) == 2.0
