"""Which jobs are an operator's, when several look after the same namespaces; `election` asks.

Every operator says with its Lease which namespaces it looks after. One that looks after all leaves
those alone that another names. Of two that look after the same, the one with the older Lease goes
on.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from lockstep_operator.core.model import Manifest

SCOPE_ANNOTATION = "lockstep.dev/namespaces"
LEASE_LABELS = {"app.kubernetes.io/name": "lockstep", "app.kubernetes.io/component": "election"}
ALL = ""
"""Stands for every namespace among those that are left to another."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What an operator looks after, as its Lease says."""

    lease: str
    """Namespace and name: `lockstep-system/lockstep-operator`."""
    namespaces: frozenset[str]
    """Empty: all."""
    created: str
    """When the Lease was made."""

    @property
    def shown(self) -> str:
        what = ", ".join(sorted(self.namespaces)) or "all namespaces"
        return f"the operator with lease {self.lease} looks after {what}"


def claim_of(lease: Manifest) -> Claim:
    """The claim that a Lease makes; one that cannot be read is for all namespaces."""
    meta = lease["metadata"]
    text = (meta.get("annotations") or {}).get(SCOPE_ANNOTATION, "[]")
    try:
        named = frozenset(map(str, json.loads(text)))
    except (ValueError, TypeError):
        named = frozenset()
    return Claim(f"{meta['namespace']}/{meta['name']}", named, meta.get("creationTimestamp") or "")


def scope_metadata(namespaces: Iterable[str]) -> Manifest:
    """What a Lease says of its holder."""
    return {
        "labels": LEASE_LABELS,
        "annotations": {SCOPE_ANNOTATION: json.dumps(sorted(namespaces))},
    }


def overlap(one: Claim, other: Claim) -> bool:
    """Whether a namespace is looked after by both."""
    return not one.namespaces or not other.namespaces or bool(one.namespaces & other.namespaces)


def left_to(mine: Claim, other: Claim) -> frozenset[str]:
    """The namespaces that `mine` leaves to another operator that is alive."""
    if not overlap(mine, other):
        return frozenset()
    if bool(mine.namespaces) != bool(other.namespaces):
        return other.namespaces if other.namespaces else frozenset()
    if (mine.created, mine.lease) < (other.created, other.lease):
        return frozenset()
    return mine.namespaces & other.namespaces if mine.namespaces else frozenset({ALL})
