"""Which jobs are an operator's, when several look after the same namespaces; `election` asks.

Every operator says with its Lease which namespaces it looks after, and by which account. One that
looks after all leaves those alone that another names. Of two that look after the same, the one with
the older Lease goes on.

Whoever may write a Lease can claim anything, so a claim counts only for what its account may look
after (`claimants` asks). A Lease tells the account's name alone: its namespace is the Lease's own,
where whoever may write Leases can mostly use the accounts, too.
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass

from lockstep_api.text import few
from lockstep_operator.core.model import Manifest

SCOPE_ANNOTATION = "lockstep.dev/namespaces"
ACCOUNT_ANNOTATION = "lockstep.dev/account"
LEASE_LABELS = {"app.kubernetes.io/name": "lockstep", "app.kubernetes.io/component": "election"}
ALL = ""
"""Stands for every namespace among those that are left to another."""
MOST_NAMESPACES = 256
"""That a claim is heeded for."""
MOST_TEXT = MOST_NAMESPACES * len(f'"{"n" * 63}", ')
"""What is read of what somebody says of himself."""
_SHOWN = 5
_NAME = re.compile(r'"([a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?)"')
_ACCOUNT = re.compile(r"[a-z0-9]([-.a-z0-9]{0,251}[a-z0-9])?")


@dataclass(frozen=True, slots=True)
class Claim:
    """What an operator looks after, as its Lease says."""

    lease: str
    """Namespace and name: `lockstep-system/lockstep-operator`."""
    namespaces: frozenset[str]
    """Empty: all."""
    created: str
    """When the Lease was made."""
    account: str = ""
    """Name of the ServiceAccount, in the Lease's namespace; empty: it tells none that can be."""

    @property
    def home(self) -> str:
        """The Lease's namespace."""
        return self.lease.partition("/")[0]

    @property
    def user(self) -> str:
        """Whom the apiserver is asked for; empty: nobody."""
        return f"system:serviceaccount:{self.home}:{self.account}" if self.account else ""

    @property
    def shown(self) -> str:
        what = few(sorted(self.namespaces), _SHOWN) or "all namespaces"
        return f"the operator with lease {self.lease} looks after {what}"


def claim_of(lease: Manifest) -> Claim:
    """The claim that a Lease makes; one that cannot be read is for all namespaces."""
    meta = lease["metadata"]
    notes = meta.get("annotations") or {}
    account = notes.get(ACCOUNT_ANNOTATION, "")
    return Claim(
        f"{meta['namespace']}/{meta['name']}",
        _named(notes.get(SCOPE_ANNOTATION, "[]")),
        meta.get("creationTimestamp") or "",
        account if _ACCOUNT.fullmatch(account) else "",
    )


def _named(text: str) -> frozenset[str]:
    """The names of namespaces in a list that anybody may have written: it is looked at with every
    renewal, so no more of it is read than names can have."""
    return frozenset(_NAME.findall(text[:MOST_TEXT]))


def scope_metadata(namespaces: Iterable[str], *, account: str = "") -> Manifest:
    """What a Lease says of its holder."""
    notes = {SCOPE_ANNOTATION: json.dumps(sorted(namespaces))}
    if account:
        notes[ACCOUNT_ANNOTATION] = account
    return {"labels": LEASE_LABELS, "annotations": notes}


def overlap(one: Claim, other: Claim) -> bool:
    """Whether a namespace is looked after by both."""
    return not one.namespaces or not other.namespaces or bool(one.namespaces & other.namespaces)


def to_ask(mine: Claim, other: Claim) -> list[str]:
    """The namespaces for which `other` has to prove its claim, if it is to count beside `mine`."""
    if not other.namespaces:
        return [ALL]
    both = mine.namespaces & other.namespaces if mine.namespaces else other.namespaces
    return sorted(both)[:MOST_NAMESPACES]


def left_to(mine: Claim, other: Claim) -> frozenset[str]:
    """The namespaces that `mine` leaves to another operator that is alive."""
    if not overlap(mine, other):
        return frozenset()
    if bool(mine.namespaces) != bool(other.namespaces):
        return other.namespaces if other.namespaces else frozenset()
    if (mine.created, mine.lease) < (other.created, other.lease):
        return frozenset()
    return mine.namespaces & other.namespaces if mine.namespaces else frozenset({ALL})
