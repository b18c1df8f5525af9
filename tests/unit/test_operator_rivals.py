"""Several operators in a cluster: no job has two, and each says to whom it leaves which."""

import asyncio
import logging
from dataclasses import dataclass, field
from typing import Any

import pytest

from lockstep_operator.core.election import LEASE_API, Timing
from lockstep_operator.core.model import JobKey, ObjectRef
from lockstep_operator.core.scope import ALL, Claim, claim_of, left_to, scope_metadata
from lockstep_operator.election import Elector
from lockstep_operator.errors import KubeError, Refused, Unavailable
from lockstep_operator.kube import job_ref
from lockstep_operator.lead import Flags, Gate
from lockstep_operator.reconcile import PassResult
from tests.support.clock import Hand
from tests.support.kube import KEY, FakeKube, cluster_with, sources_of

FAST = Timing(lease_s=0.6, renew_within_s=0.3, retry_s=0.01)
STEP_S = 10.0


def claim(lease: str, *namespaces: str, created: str = "2026-01-01T00:00:00Z") -> Claim:
    return Claim(lease, frozenset(namespaces), created)


OLDER = "2025-01-01T00:00:00Z"


@pytest.mark.parametrize(
    ("mine", "other", "left"),
    [
        (claim("a/l", "x"), claim("b/l", "y"), set()),
        (claim("a/l"), claim("b/l", "y", "z"), {"y", "z"}),
        (claim("b/l", "y"), claim("a/l", created=OLDER), set()),
        (claim("a/l"), claim("b/l", created=OLDER), {ALL}),
        (claim("a/l", created=OLDER), claim("b/l"), set()),
        (claim("a/l"), claim("b/l"), set()),
        (claim("b/l"), claim("a/l"), {ALL}),
        (claim("a/l", "x", "y"), claim("b/l", "y", "z", created=OLDER), {"y"}),
        (claim("a/l", "x", "y", created=OLDER), claim("b/l", "y", "z"), set()),
    ],
)
def test_a_namespace_has_one_operator(mine: Claim, other: Claim, left: set[str]) -> None:
    assert left_to(mine, other) == left
    both = left and left_to(other, mine)
    assert not both, "never do both leave it"


@pytest.mark.parametrize("note", ["no json", "5", "null", None])
def test_a_claim_that_cannot_be_read_is_for_all(note: str | None) -> None:
    notes = {} if note is None else {"lockstep.dev/namespaces": note}
    meta = {"name": "l", "namespace": "a", "annotations": notes}
    assert claim_of({"metadata": meta}).namespaces == frozenset()
    known = {"name": "l", "namespace": "a"} | scope_metadata(["y", "x"], account="op")
    told = claim_of({"metadata": known})
    assert told.namespaces == {"x", "y"}
    assert told.user == "system:serviceaccount:a:op"
    nobody = {"name": "l", "namespace": "a"} | scope_metadata([])
    assert claim_of({"metadata": nobody}).user == ""


@dataclass
class Release:
    """An operator of a release of its own."""

    kube: FakeKube
    namespace: str
    clock: Hand
    scope: tuple[str, ...] = ()
    told: asyncio.Queue[bool] = field(default_factory=asyncio.Queue)

    def __post_init__(self) -> None:
        self.elector = Elector(
            self.kube, self.namespace, "lock", f"{self.namespace}-pod", FAST, self.clock,
            namespaces=self.scope, account="op",
        )  # fmt: skip
        user = f"system:serviceaccount:{self.namespace}:op"
        self.kube.grants |= {(user, one) for one in self.scope or [ALL]}

    def begin(self) -> asyncio.Task[None]:
        return asyncio.create_task(self.elector.acquire())

    def hold(self) -> asyncio.Task[None]:
        return asyncio.create_task(self.elector.hold(self.told.put_nowait))

    def serves(self, namespace: str) -> bool:
        return self.elector.rivals.serves(namespace)


async def until(holds: Any) -> None:
    """Waits for what no event tells."""
    async with asyncio.timeout(STEP_S):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def looked(kube: FakeKube, times: int = 2) -> None:
    """Returns when Leases have been listed so often again."""
    before = kube.calls["list", "Lease"]
    await until(lambda: kube.calls["list", "Lease"] >= before + times)


async def cancelled(*tasks: asyncio.Task[None]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_an_operator_of_all_namespaces_leaves_those_that_another_names() -> None:
    kube, clock = FakeKube(), Hand()
    wide, named = Release(kube, "a", clock), Release(kube, "b", clock, ("lab",))
    await wide.begin()
    holding = wide.hold()
    beginning = named.begin()
    await until(lambda: not wide.serves("lab"))
    assert wide.serves("other")
    assert not beginning.done(), "passes that had begun may still write"
    clock.now_s += FAST.renew_within_s * 0.9
    await looked(kube, 4)
    clock.now_s += FAST.renew_within_s * 0.9
    await looked(kube, 4)
    assert not beginning.done()
    clock.now_s += FAST.renew_within_s * 0.9
    await asyncio.wait_for(beginning, STEP_S)
    assert named.serves("lab")
    await named.elector.release()
    await until(lambda: wide.serves("lab"))
    await cancelled(holding)


async def test_of_two_operators_of_all_namespaces_one_works_and_the_other_says_why_not(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kube, clock = FakeKube(), Hand()
    first, second = Release(kube, "a", clock), Release(kube, "b", clock)
    await first.begin()
    holding, beginning = first.hold(), second.begin()
    with caplog.at_level(logging.WARNING):
        await until(lambda: not second.serves("lab"))
    assert first.serves("lab")
    said = [one.getMessage() for one in caplog.records if "looks after" in one.getMessage()]
    assert any("lease a/lock looks after all namespaces" in one for one in said)
    await cancelled(holding, beginning)


async def test_an_operator_that_has_fallen_silent_is_replaced_by_the_other() -> None:
    kube, clock = FakeKube(), Hand()
    wide, named = Release(kube, "a", clock), Release(kube, "b", clock, ("lab",))
    await named.begin()
    await wide.elector._tried()
    assert not wide.serves("lab")
    holding = wide.hold()
    clock.now_s += FAST.renew_within_s / 2
    await looked(kube)
    assert not wide.serves("lab"), "it may only be slow"
    for _ in range(8):  # a Lease says whole seconds
        clock.now_s += FAST.renew_within_s / 2
        await looked(kube)
    await until(lambda: wide.serves("lab"))
    await cancelled(holding)


def failing_list(error: KubeError) -> Any:
    return lambda verb, name: error if (verb, name) == ("list", "Lease") else None


async def test_a_renewal_counts_only_when_the_others_were_seen() -> None:
    kube, clock = FakeKube(), Hand()
    one = Release(kube, "a", clock)
    await one.begin()
    holding = one.hold()
    kube.fail = failing_list(Unavailable("away"))
    clock.now_s += FAST.renew_within_s
    assert await asyncio.wait_for(one.told.get(), STEP_S) is False
    assert one.elector.left_s() <= 0
    kube.fail = lambda verb, name: None
    assert await asyncio.wait_for(one.told.get(), STEP_S) is True
    await cancelled(holding)


async def test_an_operator_that_may_not_list_leases_leads_as_before() -> None:
    kube = FakeKube()
    kube.fail = failing_list(Refused("leases is forbidden"))
    one = Release(kube, "a", Hand())
    await asyncio.wait_for(one.begin(), STEP_S)
    assert one.serves("lab")
    lease = await kube.get(ObjectRef(LEASE_API, "Lease", "a", "lock"))
    assert lease["metadata"]["annotations"] == {
        "lockstep.dev/namespaces": "[]", "lockstep.dev/account": "op",
    }  # fmt: skip


async def test_a_job_that_is_left_to_another_has_no_pass_and_no_plan() -> None:
    kube = cluster_with()
    passes: list[JobKey] = []

    async def one_pass(key: JobKey) -> PassResult:
        passes.append(key)
        return PassResult()

    release = Release(kube, "a", Hand())
    await release.begin()
    flags = Flags()
    flags.leading.set()
    gate = Gate(flags, one_pass, sources=sources_of(kube), elector=release.elector)
    release.elector.rivals.left = frozenset({KEY.namespace})
    assert not gate.serves(KEY.namespace)
    assert gate.serves("other")
    assert not (await gate(KEY)).gone
    kube.remove(job_ref(KEY.namespace, KEY.name))
    assert (await gate(KEY)).gone
    assert passes == []
    release.elector.rivals.left = frozenset()
    await gate(KEY)
    assert passes == [KEY]
