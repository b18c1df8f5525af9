"""Leader election: one leads, a silent one is replaced, one that ends hands over at once."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_operator.config import OperatorConfig
from lockstep_operator.core.election import (
    LEASE_API,
    Sighting,
    Step,
    Timing,
    holder_of,
    lease_manifest,
    next_step,
    sighted,
)
from lockstep_operator.core.model import Manifest, ObjectRef
from lockstep_operator.election import Elector
from lockstep_operator.errors import Unavailable
from lockstep_operator.kube import Kind
from lockstep_operator.kube_lists import Listing
from tests.support.clock import Hand, in_no_time, loop_time
from tests.support.kube import FakeKube

TIMING = Timing(lease_s=12, renew_within_s=8, retry_s=2)
FAST = Timing(lease_s=0.6, renew_within_s=0.3, retry_s=0.05)
LEASE = ObjectRef(LEASE_API, "Lease", "lab", "lock")


def lease(holder: str, version: str = "1", **spec: Any) -> Manifest:
    """A lease as the apiserver has it."""
    return {
        "metadata": {"name": "lock", "namespace": "lab", "resourceVersion": version},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 12, **spec},
    }


@pytest.mark.parametrize(
    ("found", "since_s", "step"),
    [
        (None, None, Step.CREATE),
        (lease("a"), 99.0, Step.RENEW),
        (lease(""), 99.0, Step.TAKE),
        (lease("b"), 99.0, Step.WAIT),
        (lease("b"), 88.1, Step.WAIT),
        (lease("b"), 88.0, Step.TAKE),
        (lease("b", leaseDurationSeconds=60), 88.0, Step.WAIT),
    ],
)
def test_what_to_do_about_a_lease(
    found: Manifest | None, since_s: float | None, step: Step
) -> None:
    seen = None if since_s is None else Sighting("1", since_s)
    assert next_step(found, seen, me="a", now_s=100.0, timing=TIMING) is step


def test_the_time_of_a_sighting_is_that_of_the_last_change() -> None:
    first = sighted(None, lease("b", "1"), now_s=5.0)
    assert sighted(first, lease("b", "1"), now_s=9.0).since_s == 5.0
    assert sighted(first, lease("b", "2"), now_s=9.0).since_s == 9.0


def test_transitions_are_counted() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)

    def after(before: Manifest | None, me: str) -> Manifest:
        return lease_manifest("lock", "lab", me=me, now=now, before=before, timing=TIMING)["spec"]  # type: ignore[no-any-return]

    first = after(None, "a")
    assert first["leaseTransitions"] == 0
    assert first["acquireTime"] == "2026-01-01T00:00:00.000000Z"
    held = {"metadata": {"resourceVersion": "1"}, "spec": {**first, "acquireTime": "earlier"}}
    assert after(held, "a")["acquireTime"] == "earlier"
    assert after(held, "a")["leaseTransitions"] == 0
    assert after(held, "b")["leaseTransitions"] == 1


@pytest.mark.parametrize("times", [(8, 8, 2), (12, 2, 2), (12, 8, 0)])
def test_times_that_would_allow_two_leaders_are_refused(times: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="retry < renew deadline < lease"):
        Timing(*times)
    with pytest.raises(ValueError, match="retry < renew deadline < lease"):
        OperatorConfig(lease_seconds=times[0], renew_seconds=times[1], retry_seconds=times[2])


@dataclass
class Candidate:
    """A candidate as the model of the property test sees it; its clock runs at its own rate."""

    name: str
    rate: float
    offset: float
    seen: Sighting | None = None
    renewed_s: float | None = None
    """On its own clock; None: it does not lead."""
    read: Manifest | None = field(default=None)

    def clock(self, now: float) -> float:
        return self.offset + self.rate * now

    def leads(self, now: float) -> bool:
        if self.renewed_s is None:
            return False
        return self.clock(now) < self.renewed_s + TIMING.renew_within_s


@given(
    rates=st.lists(st.floats(0.95, 1.05), min_size=2, max_size=3),
    offsets=st.lists(st.floats(-1e5, 1e5), min_size=3, max_size=3),
    actions=st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.floats(0, 3)), max_size=60),
)
def test_two_never_lead_at_once(
    rates: list[float], offsets: list[float], actions: list[tuple[int, bool, float]]
) -> None:
    """Reads and writes of candidates in any order, at any time, with clocks of their own."""
    everyone = [
        Candidate(f"c{i}", rate, offset)
        for i, (rate, offset) in enumerate(zip(rates, offsets, strict=False))
    ]
    stored: Manifest | None = None
    now, version = 0.0, 0
    for number, reads, pause in actions:
        now += pause
        one = everyone[number % len(everyone)]
        if one.renewed_s is not None and not one.leads(now):
            one.renewed_s = None  # it has stopped
        if reads:
            one.read = stored
            one.seen = None if stored is None else sighted(one.seen, stored, now_s=one.clock(now))
            continue
        step = next_step(one.read, one.seen, me=one.name, now_s=one.clock(now), timing=TIMING)
        current = None if stored is None else stored["metadata"]["resourceVersion"]
        known = None if one.read is None else one.read["metadata"]["resourceVersion"]
        if step is Step.WAIT or known != current:
            continue
        version += 1
        stored = lease(one.name, str(version))
        one.read, one.seen = stored, sighted(one.seen, stored, now_s=one.clock(now))
        one.renewed_s = one.clock(now)
        leaders = [each.name for each in everyone if each.leads(now)]
        assert len(leaders) <= 1


def elector(kube: FakeKube, me: str, monotonic: Callable[[], float] = time.monotonic) -> Elector:
    """A candidate with short times."""
    return Elector(kube, "lab", "lock", me, FAST, monotonic)


async def renewed(kube: FakeKube) -> None:
    """Waits until the lease has been written anew."""
    before = kube.objects.get(LEASE)
    while kube.objects.get(LEASE) in (before, None):  # noqa: ASYNC110 - the fake tells nobody
        await asyncio.sleep(0.01)


async def test_a_silent_leader_is_replaced() -> None:
    kube, clock = FakeKube(), Hand()
    first, second = elector(kube, "a", clock), elector(kube, "b", clock)
    await first.acquire()
    waiting = asyncio.create_task(second.acquire())
    holding = asyncio.create_task(first.hold())
    for _ in range(9):
        clock.now_s += FAST.lease_s / 3
        await renewed(kube)
        assert not waiting.done(), "a leader that renews stays"
    holding.cancel()  # killed: it says nothing any more
    while not waiting.done():
        clock.now_s += FAST.lease_s / 3
        await asyncio.sleep(FAST.retry_s)
    assert holder_of(await kube.get(LEASE)) == "b"


async def test_a_leader_that_ends_hands_over_without_waiting() -> None:
    kube = FakeKube()
    slow = Timing(lease_s=600, renew_within_s=300, retry_s=0.05)
    first = Elector(kube, "lab", "lock", "a", timing=slow)
    second = Elector(kube, "lab", "lock", "b", timing=slow)
    await first.acquire()
    waiting = asyncio.create_task(second.acquire())
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await first.release()
    await asyncio.wait_for(waiting, 10)
    await first.release()
    assert holder_of(await kube.get(LEASE)) == "b", "what is not ours is not released"


def away(kube: FakeKube) -> None:
    """From now on nobody reaches the lease."""
    kube.fail = lambda verb, name: Unavailable("no route") if name == "lock" else None


def back(kube: FakeKube) -> None:
    kube.fail = lambda verb, name: None


@dataclass
class Told:
    """What `hold` tells."""

    heard: asyncio.Queue[bool] = field(default_factory=asyncio.Queue)

    async def next(self) -> bool:
        return await asyncio.wait_for(self.heard.get(), 10)


async def test_a_leader_that_cannot_renew_stops_until_it_can() -> None:
    """Nobody else has the lease meanwhile: nobody else could lead."""
    kube, told, clock = FakeKube(), Told(), Hand()
    one = elector(kube, "a", clock)
    await one.acquire()
    holding = asyncio.create_task(one.hold(told.heard.put_nowait))
    for _ in range(2):
        away(kube)
        clock.now_s += FAST.renew_within_s
        assert await told.next() is False
        assert one.left_s() <= 0
        back(kube)
        assert await told.next() is True
        assert one.left_s() > 0
    assert not holding.done()
    assert (await kube.get(LEASE))["spec"]["leaseTransitions"] == 0
    holding.cancel()


class SlowKube(FakeKube):
    """Each call takes so many seconds."""

    call_s: float = 0.0

    async def get(self, ref: ObjectRef) -> Manifest:
        await asyncio.sleep(self.call_s)
        return await super().get(ref)

    async def listed(
        self, kind: Kind, namespace: str | None = None, *, labels: str = ""
    ) -> Listing[Manifest]:
        await asyncio.sleep(self.call_s)
        return await super().listed(kind, namespace, labels=labels)

    async def create(self, manifest: Manifest) -> Manifest:
        await asyncio.sleep(self.call_s)
        return await super().create(manifest)

    async def replace(self, manifest: Manifest) -> Manifest:
        await asyncio.sleep(self.call_s)
        return await super().replace(manifest)


async def test_a_leader_whose_calls_all_take_too_long_stops_until_they_do_not() -> None:
    kube, told, clock = SlowKube(), Told(), Hand()
    one = elector(kube, "a", clock)
    await one.acquire()
    holding = asyncio.create_task(one.hold(told.heard.put_nowait))
    kube.call_s = 10.0
    clock.now_s += FAST.renew_within_s
    assert await told.next() is False
    clock.now_s += 1000
    await asyncio.sleep(3 * FAST.retry_s)
    assert told.heard.empty()
    kube.call_s = 0.0
    assert await told.next() is True
    assert not holding.done()
    holding.cancel()


class HangingKube(FakeKube):
    """Its third write of the lease is never answered: the connection is dead."""

    replaced: int = 0

    async def replace(self, manifest: Manifest) -> Manifest:
        self.replaced += 1
        if self.replaced == 3:
            await asyncio.Event().wait()
        return await super().replace(manifest)


def slow() -> FakeKube:
    """Each call takes a third of the time of a renewal."""
    kube = SlowKube()
    kube.call_s = Timing().renew_within_s / 3
    return kube


@pytest.mark.parametrize(
    ("kube", "left_s"),
    [
        pytest.param(slow, Timing().renew_within_s / 3, id="of-which-each-takes-long"),
        pytest.param(HangingKube, 1.0, id="of-which-one-is-never-answered"),
    ],
)
def test_a_leader_leads_on_through_calls(kube: Callable[[], FakeKube], left_s: float) -> None:
    """And has the time of a call left for each write, at any moment."""

    async def leads(kube: FakeKube) -> list[bool]:
        one = Elector(kube, "lab", "lock", "a", monotonic=loop_time)
        await one.acquire()
        told: list[bool] = []
        holding = asyncio.create_task(one.hold(told.append))
        for _ in range(600):
            await asyncio.sleep(1)
            assert one.left_s() >= left_s
        holding.cancel()
        return told

    assert in_no_time(leads(kube())) == []


async def test_who_begins_is_seen_before_it_looks_at_others() -> None:
    """So of two operators that begin at once at least one sees the other."""
    kube, calls = FakeKube(), list[str]()

    def note(verb: str, name: str) -> None:
        calls.append(verb)

    kube.fail = note
    await elector(kube, "a").acquire()
    assert calls.index("create") < calls.index("list")


async def taken_by_b(kube: FakeKube) -> None:
    kube.put(lease("b") | {"apiVersion": LEASE_API, "kind": "Lease"})


async def taken_and_released(kube: FakeKube) -> None:
    kube.put(lease("") | {"apiVersion": LEASE_API, "kind": "Lease"})


async def deleted(kube: FakeKube) -> None:
    kube.remove(LEASE)


@pytest.mark.parametrize("change", [taken_by_b, taken_and_released, deleted])
async def test_a_leader_that_could_not_renew_ends_when_another_may_have_led(
    change: Callable[[FakeKube], Awaitable[None]],
) -> None:
    kube, told, clock = FakeKube(), Told(), Hand()
    one = elector(kube, "a", clock)
    await one.acquire()
    holding = asyncio.create_task(one.hold(told.heard.put_nowait))
    away(kube)
    clock.now_s += FAST.renew_within_s
    assert await told.next() is False
    await change(kube)
    writes = len(kube.writes)
    back(kube)
    await asyncio.wait_for(holding, 10)
    assert one.left_s() <= 0
    assert len(kube.writes) == writes, "it takes nothing back"
    assert told.heard.empty()


async def test_a_lease_that_was_deleted_is_made_again_by_the_leader() -> None:
    kube, clock = FakeKube(), Hand()
    one = elector(kube, "a", clock)
    await one.acquire()
    holding = asyncio.create_task(one.hold())
    kube.remove(LEASE)
    await renewed(kube)
    assert holder_of(await kube.get(LEASE)) == "a"
    assert not holding.done()
    holding.cancel()


async def test_a_leader_that_was_replaced_stops() -> None:
    kube = FakeKube()
    one = elector(kube, "a")
    await one.acquire()
    kube.put(lease("b") | {"apiVersion": LEASE_API, "kind": "Lease"})
    await asyncio.wait_for(one.hold(), 10)
    assert holder_of(await kube.get(LEASE)) == "b"


async def test_only_while_it_leads_may_a_process_write() -> None:
    kube = FakeKube()
    one = elector(kube, "a", Hand())
    assert one.left_s() <= 0, "not before it leads"
    await one.acquire()
    assert one.left_s() == pytest.approx(FAST.renew_within_s)
    kube.put(lease("b") | {"apiVersion": LEASE_API, "kind": "Lease"})
    await asyncio.wait_for(one.hold(), 10)
    assert one.left_s() <= 0, "nor when another has taken its place"


async def test_a_lease_that_is_over_is_not_given_back() -> None:
    """Nor is time spent on it: a successor does not wait for this process."""
    kube = FakeKube()
    one = elector(kube, "a")
    await one.acquire()
    kube.fail = lambda verb, name: Unavailable("no route")
    told = Told()
    holding = asyncio.create_task(one.hold(told.heard.put_nowait))
    assert await told.next() is False
    holding.cancel()
    await asyncio.gather(holding, return_exceptions=True)
    kube.calls.clear()
    await one.release()
    assert kube.calls.total() == 0


async def test_a_process_that_gave_its_lease_back_writes_no_more() -> None:
    kube = FakeKube()
    one = elector(kube, "a")
    await one.acquire()
    left: list[float] = []

    def note(verb: str, name: str) -> None:
        if verb == "replace":
            left.append(one.left_s())

    kube.fail = note
    await one.release()
    assert left == [-math.inf], "no longer when the lease goes out"
