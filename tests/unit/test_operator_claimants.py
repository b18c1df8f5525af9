"""Leases that claim namespaces: only those count whose account may look after them."""

import asyncio
import json
import logging
from collections.abc import Iterable
from typing import Any

import pytest

from lockstep_operator.claimants import COUNTS_S, MOST_ASKED
from lockstep_operator.core.election import LEASE_API, Timing
from lockstep_operator.core.model import Manifest, ObjectRef
from lockstep_operator.core.scope import (
    ALL,
    LEASE_LABELS,
    MOST_NAMESPACES,
    claim_of,
)
from lockstep_operator.errors import KubeError, Refused, Unavailable
from lockstep_operator.kube import Kind
from lockstep_operator.kube_lists import Listing
from lockstep_operator.rights import Called
from lockstep_operator.rivals import Rivals
from tests.support.kube import FakeKube

FAST = Timing(lease_s=0.6, renew_within_s=0.3, retry_s=0.01)
OLD, NEW = "2020-01-01T00:00:00Z", "2026-01-01T00:00:00Z"
REVIEW = ("create", "SubjectAccessReview")


def lease(
    namespace: str,
    *claimed: str,
    account: str | None = "lockstep-operator",
    name: str = "lockstep-operator",
    created: str = OLD,
) -> Manifest:
    """A Lease that is held for long; by default it claims all, and is older than `mine`."""
    notes = {"lockstep.dev/namespaces": json.dumps(claimed)}
    if account is not None:
        notes["lockstep.dev/account"] = account
    meta = {"namespace": namespace, "name": name, "labels": LEASE_LABELS, "annotations": notes}
    return {
        "apiVersion": LEASE_API,
        "kind": "Lease",
        "metadata": {**meta, "creationTimestamp": created},
        "spec": {"holderIdentity": "me", "leaseDurationSeconds": 1_000_000_000},
    }


def mine(*namespaces: str) -> Manifest:
    return lease("lockstep-system", *namespaces, created=NEW)


def may(kube: FakeKube, namespace: str, *within: str, account: str = "lockstep-operator") -> None:
    """Gives an account of a namespace what an operator has; "" is everywhere."""
    kube.grants |= {(f"system:serviceaccount:{namespace}:{account}", one) for one in within}


def cluster(*leases: Manifest) -> FakeKube:
    kube = FakeKube()
    for one in leases:
        kube.put(one)
    return kube


async def seen(kube: FakeKube, own: Manifest) -> Rivals:
    rivals = Rivals(kube, FAST)
    await rivals.look(own, now_s=0.0)
    return rivals


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [one.getMessage() for one in caplog.records]


@pytest.mark.parametrize("claimed", [("vic", "other"), ()])
@pytest.mark.parametrize("own", [(), ("vic",)])
async def test_a_lease_that_somebody_wrote_takes_no_job_away(
    claimed: tuple[str, ...], own: tuple[str, ...]
) -> None:
    kube = cluster(lease("team", *claimed))
    rivals = await seen(kube, mine(*own))
    assert rivals.left == frozenset()
    assert not rivals.overlapping, "nor is it waited for"
    assert rivals.serves("vic")


@pytest.mark.parametrize(
    ("claimed", "granted", "own", "left"),
    [
        (("lab",), "lab", (), {"lab"}),
        ((), ALL, (), {ALL}),
        (("lab", "x"), "lab", ("lab", "y"), {"lab"}),
        ((), ALL, ("lab",), set()),
    ],
)
async def test_what_an_operator_with_its_rights_claims_is_left_to_it(
    claimed: tuple[str, ...], granted: str, own: tuple[str, ...], left: set[str]
) -> None:
    kube = cluster(lease("second", *claimed))
    may(kube, "second", granted)
    rivals = await seen(kube, mine(*own))
    assert rivals.overlapping
    assert rivals.left == left


async def test_a_claim_counts_for_what_its_account_may_look_after(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kube = cluster(lease("second", "lab", "vic"))
    may(kube, "second", "lab")
    rivals = Rivals(kube, FAST)
    for now_s in (0.0, 1.0):
        await rivals.look(mine(), now_s=now_s)
    assert rivals.left == {"lab"}
    told = [one for one in said(caplog) if "vic" in one]
    assert told == [
        "lease second/lockstep-operator claims namespace vic, which its account"
        " lockstep-operator may not look after: nothing there is left to it"
    ]


async def test_who_may_look_after_a_namespace_does_not_look_after_all() -> None:
    kube = cluster(lease("second"))
    may(kube, "second", "second", "lab")
    rivals = await seen(kube, mine())
    assert rivals.serves("lab")
    assert not rivals.overlapping


@pytest.mark.parametrize(
    "account",
    [
        None,
        "",
        "lockstep-system:lockstep-operator",
        "../lockstep-system/lockstep-operator",
        "lockstep-operator\n",
        "x" * 254,
    ],
)
async def test_nobody_names_an_account_of_another_namespace(account: str | None) -> None:
    kube = cluster(lease("team", account=account))
    may(kube, "lockstep-system", ALL)
    may(kube, "team", ALL, account=account or "")
    assert (await seen(kube, mine())).serves("vic")
    assert kube.calls[REVIEW] == 0


@pytest.mark.parametrize("names", [[""], ["", "*"], ["no name", "-x"], [5, None]])
async def test_what_is_no_name_of_a_namespace_stands_for_none(names: list[object]) -> None:
    """Nor for all, where a claimant looks after one."""
    forged = lease("team")
    forged["metadata"]["annotations"]["lockstep.dev/namespaces"] = json.dumps(["team", *names])
    kube = cluster(forged)
    may(kube, "team", "team", "", "*")
    assert (await seen(kube, mine())).left == {"team"}


async def test_a_claim_that_is_nested_without_end_is_read() -> None:
    forged = lease("team")
    forged["metadata"]["annotations"]["lockstep.dev/namespaces"] = "[" * 200_000
    assert (await seen(cluster(forged), mine())).serves("vic")


async def test_only_claims_that_overlap_and_are_alive_are_asked_for() -> None:
    gone = lease("gone", "lab")
    gone["spec"]["holderIdentity"] = ""
    kube = cluster(gone, lease("apart", "x"), lease("team", "lab", "x"))
    await seen(kube, mine("lab", "y"))
    assert kube.asked == [("system:serviceaccount:team:lockstep-operator", "lab")]


async def test_an_answer_counts_for_a_while_and_is_asked_anew_in_time() -> None:
    kube = cluster(lease("second", "lab"))
    may(kube, "second", "lab")
    rivals, at_s = Rivals(kube, FAST), 0.0
    for _ in range(3):
        await rivals.look(mine(), now_s=at_s)
        at_s += COUNTS_S / 8
    assert len(kube.asked) == 1
    kube.grants.clear()
    await rivals.look(mine(), now_s=COUNTS_S * 0.9)
    assert len(kube.asked) == 2
    assert rivals.serves("lab")


async def test_an_old_answer_counts_no_more() -> None:
    kube = cluster(lease("second", "lab"))
    may(kube, "second", "lab")
    rivals = Rivals(kube, FAST)
    await rivals.look(mine(), now_s=0.0)
    assert not rivals.serves("lab")
    kube.grants.clear()
    await rivals.look(mine(), now_s=COUNTS_S * 3)
    assert rivals.serves("lab")


def failing(error: KubeError) -> Any:
    return lambda verb, name: error if verb == "access" else None


async def test_what_was_answered_counts_on_when_it_may_not_be_asked_anew() -> None:
    kube = cluster(lease("second", "lab"))
    may(kube, "second", "lab")
    rivals = Rivals(kube, FAST)
    await rivals.look(mine(), now_s=0.0)
    kube.fail = failing(Refused("for a moment"))
    await rivals.look(mine(), now_s=COUNTS_S * 0.9)
    assert not rivals.serves("lab")
    await rivals.look(mine(), now_s=COUNTS_S)
    assert rivals.serves("lab")


async def test_without_answers_the_others_are_not_known() -> None:
    kube = cluster(lease("second", "lab"))
    kube.fail = failing(Unavailable("away"))
    with pytest.raises(Unavailable):
        await seen(kube, mine())


async def test_an_operator_that_may_not_ask_heeds_nobody_and_says_so_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kube = cluster(lease("second", "lab"), lease("third", "lab", "x"))
    kube.fail = failing(Refused("subjectaccessreviews is forbidden"))
    rivals = Rivals(kube, FAST)
    for now_s in (0.0, 1.0):
        await rivals.look(mine(), now_s=now_s)
    assert rivals.serves("lab")
    assert said(caplog) == [
        "no other is heeded, since who they are cannot be asked: subjectaccessreviews is forbidden"
    ]
    assert kube.calls[REVIEW] == 3, "not with every renewal"
    kube.fail = lambda verb, name: None
    may(kube, "second", "lab")
    await rivals.look(mine(), now_s=COUNTS_S)
    assert not rivals.serves("lab")


async def looked(kube: FakeKube, times: int) -> tuple[Rivals, list[int]]:
    """And how much was asked each time."""
    rivals, asked = Rivals(kube, FAST), []
    for now_s in range(times):
        before = len(kube.asked)
        await rivals.look(mine(), now_s=float(now_s))
        asked.append(len(kube.asked) - before)
    return rivals, asked


def many(prefix: str, number: int) -> Iterable[str]:
    return (f"{prefix}{one:04}" for one in range(number))


async def test_a_flood_of_claims_delays_neither_a_look_nor_a_claim_that_is_true() -> None:
    """Namespaces take turns at being asked for, each with one Lease."""
    names = ["lockstep-operator", *many("l", 4)]
    floods = [
        lease(team, *many("v", MOST_NAMESPACES), name=name)
        for team in many("team", 20)
        for name in names
    ]
    kube = cluster(*floods, lease("second", "lab", "vic"))
    may(kube, "second", "lab", "vic")
    rivals, asked = await looked(kube, 2)
    assert rivals.left == {"lab", "vic"}
    assert asked == [MOST_ASKED, MOST_ASKED]
    assert {user for user, _ in kube.asked} == {
        f"system:serviceaccount:{home}:lockstep-operator" for home in (*many("team", 20), "second")
    }


async def test_of_a_claim_without_end_the_first_namespaces_are_asked_for() -> None:
    claimed = [*many("v", MOST_NAMESPACES + 50)]
    kube = cluster(lease("team", *claimed))
    may(kube, "team", *claimed)
    times = MOST_NAMESPACES // MOST_ASKED
    assert times * Timing().retry_s < Timing().lease_s, "its operator waits for so long"
    rivals, asked = await looked(kube, times + 1)
    assert rivals.left == set(claimed[:MOST_NAMESPACES])
    assert asked == [*[MOST_ASKED] * times, 0]


def test_the_text_of_a_claim_that_is_heeded_is_read_to_its_end() -> None:
    longest = [f"{one:063}" for one in range(MOST_NAMESPACES)]
    assert claim_of(lease("team", *longest)).namespaces == set(longest)


async def test_an_answer_is_asked_anew_while_the_leases_are_listed() -> None:
    """One call's time is all that a renewal has where calls are slow."""
    kube = Together()
    kube.put(lease("second", "lab"))
    may(kube, "second", "lab")
    rivals = Rivals(kube, FAST)
    await rivals.look(mine(), now_s=0.0)
    kube.waits = True
    await asyncio.wait_for(rivals.look(mine(), now_s=COUNTS_S * 0.9), 10)
    assert not rivals.serves("lab")


class Together(FakeKube):
    """Its lists end once somebody has asked what he may."""

    waits = False
    came = asyncio.Event()

    async def listed(
        self, kind: Kind, namespace: str | None = None, *, labels: str = ""
    ) -> Listing[Manifest]:
        if self.waits:
            await self.came.wait()
        return await super().listed(kind, namespace, labels=labels)

    async def review_access(self, user: str, call: Called, *, namespace: str) -> bool:
        if self.waits:
            self.came.set()
        return await super().review_access(user, call, namespace=namespace)


async def test_claims_that_come_and_go_fill_no_log(caplog: pytest.LogCaptureFixture) -> None:
    kube = FakeKube()
    rivals = Rivals(kube, FAST)
    with caplog.at_level(logging.WARNING):
        for number, victim in enumerate(many("vic", 20)):
            kube.put(lease("team", victim, account=f"a{number}"))
            await rivals.look(mine(), now_s=float(number))
            kube.remove(ObjectRef(LEASE_API, "Lease", "team", "lockstep-operator"))
    assert len(said(caplog)) == 1
