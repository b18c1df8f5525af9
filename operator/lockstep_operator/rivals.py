"""The other operators of the cluster, as their Leases tell; `election` looks with every renewal.

A renewal counts only when the others were seen, too. So an operator that has held its lease for as
long as one lasts knows that whoever has to leave a namespace to it has left it, or cannot write.
"""

import logging
from dataclasses import dataclass, field

from lockstep_operator.core.election import LEASE_API, Sighting, Timing, is_alive, sighted
from lockstep_operator.core.model import Manifest
from lockstep_operator.core.scope import (
    ALL,
    LEASE_LABELS,
    SCOPE_ANNOTATION,
    Claim,
    claim_of,
    left_to,
    overlap,
)
from lockstep_operator.errors import Refused
from lockstep_operator.kube import Kube

logger = logging.getLogger(__name__)

_LEASE = (LEASE_API, "Lease")
_MOST_SAID = 1 << 16
"""Characters of what a Lease says that are read."""
_SELECTOR = ",".join(f"{key}={value}" for key, value in LEASE_LABELS.items())


@dataclass(slots=True)
class Rivals:
    """Who else is there."""

    kube: Kube
    timing: Timing
    left: frozenset[str] = frozenset()
    """The namespaces that are left to others."""
    overlapping: bool = False
    """Whether another that is alive looks after a namespace of this operator's."""
    _seen: dict[str, Sighting] = field(default_factory=dict)
    _told: frozenset[str] = frozenset()

    def serves(self, namespace: str) -> bool:
        """Whether a namespace's jobs are this operator's."""
        return not self.left & {ALL, namespace}

    async def look(self, own: Manifest, *, now_s: float) -> None:
        """Once, beside the own lease as it is held now.

        Raises:
            KubeError: the others are not known.
        """
        try:
            listed = await self.kube.list(_LEASE, labels=_SELECTOR, kept=shown)
        except Refused as error:
            self._tell(f"others are not looked for: {error}")
            return
        mine = claim_of(own)
        alive = self._alive(listed.items, mine, now_s=now_s)
        self.overlapping = bool(alive)
        self.left = frozenset().union(*(left_to(mine, other) for other in alive))
        for other in alive:
            given = "this operator leaves its jobs to it" if left_to(mine, other) else "and yields"
            self._tell(f"{other.shown}, too: {given}")

    def _alive(self, leases: list[Manifest], mine: Claim, *, now_s: float) -> list[Claim]:
        """Those that overlap; a holder counts from when this process saw its lease change."""
        found: dict[str, Sighting] = {}
        alive = []
        for lease in leases:
            claim = claim_of(lease)
            if claim.lease == mine.lease or not overlap(mine, claim):
                continue
            seen = sighted(self._seen.get(claim.lease), lease, now_s=now_s)
            found[claim.lease] = seen
            if is_alive(lease, seen, now_s=now_s, timing=self.timing):
                alive.append(claim)
        self._seen = found
        return alive

    def _tell(self, message: str) -> None:
        """Once."""
        if message not in self._told:
            self._told |= {message}
            logger.warning("%s", message)


def shown(lease: Manifest) -> Manifest:
    """What of a Lease is read here, and no more: whoever may make some writes what he likes."""
    meta, spec = lease["metadata"], lease.get("spec") or {}
    said = (meta.get("annotations") or {}).get(SCOPE_ANNOTATION, "[]")
    read = ("namespace", "name", "resourceVersion", "creationTimestamp")
    kept = {key: meta[key] for key in read if key in meta}
    held = ("holderIdentity", "leaseDurationSeconds")
    return {
        "metadata": {**kept, "annotations": {SCOPE_ANNOTATION: said[:_MOST_SAID]}},
        "spec": {key: spec[key] for key in held if key in spec},
    }
