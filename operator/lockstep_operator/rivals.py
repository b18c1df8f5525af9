"""The other operators of the cluster, as their Leases tell; `election` looks with every renewal.

A renewal counts only when the others were seen, too. So an operator that has held its lease for as
long as one lasts knows that whoever has to leave a namespace to it has left it, or cannot write.
What a Lease claims counts as far as its account may look after it (`claimants`).
"""

import asyncio
import logging
from dataclasses import dataclass, field

from lockstep_api.text import few
from lockstep_operator.claimants import Claimants, Heard
from lockstep_operator.core.election import LEASE_API, Sighting, Timing, is_alive, sighted
from lockstep_operator.core.model import Manifest
from lockstep_operator.core.scope import (
    ACCOUNT_ANNOTATION,
    ALL,
    LEASE_LABELS,
    MOST_TEXT,
    SCOPE_ANNOTATION,
    Claim,
    claim_of,
    left_to,
    overlap,
)
from lockstep_operator.errors import Refused
from lockstep_operator.kube import Kube
from lockstep_operator.kube_lists import all_of
from lockstep_serving.recent import remember

logger = logging.getLogger(__name__)

_LEASE = (LEASE_API, "Lease")
_SELECTOR = ",".join(f"{key}={value}" for key, value in LEASE_LABELS.items())
_MOST_TOLD = 1024


@dataclass(slots=True)
class Rivals:
    """Who else is there."""

    kube: Kube
    timing: Timing
    left: frozenset[str] = frozenset()
    """The namespaces that are left to others."""
    overlapping: bool = False
    """Whether another that is alive looks after a namespace of this operator's."""
    claimants: Claimants = field(init=False)
    _seen: dict[str, Sighting] = field(default_factory=dict)
    _told: dict[str, None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.claimants = Claimants(self.kube)

    def serves(self, namespace: str) -> bool:
        """Whether a namespace's jobs are this operator's."""
        return not self.left & {ALL, namespace}

    async def look(self, own: Manifest, *, now_s: float) -> None:
        """Once, beside the own lease as it is held now.

        Raises:
            KubeError: the others are not known.
        """
        try:
            leases = await self._listed(own["metadata"]["name"], now_s=now_s)
        except Refused as error:
            self._tell(f"others are not looked for: {error}")
            return
        mine = claim_of(own)
        alive = self._alive(leases, mine, now_s=now_s)
        heard = await self.claimants.hear(alive, mine=mine, now_s=now_s)
        if alive and self.claimants.refused:
            why = self.claimants.refused
            self._tell(f"no other is heeded, since who they are cannot be asked: {why}", about="")
        for one in heard:
            self._tell_what_is_not_heeded(one)
        others = [one.heeded for one in heard if one.heeded is not None]
        self.overlapping = bool(others)
        self.left = frozenset().union(*(left_to(mine, other) for other in others))
        for other in others:
            given = "this operator leaves its jobs to it" if left_to(mine, other) else "and yields"
            self._tell(f"{other.shown}, too: {given}")

    async def _listed(self, name: str, *, now_s: float) -> list[Manifest]:
        """The Leases of operators, while answers that grow old are asked anew.

        All releases give theirs one name: so there is one of each namespace, however many somebody
        makes.
        """
        pages = self.kube.pages(_LEASE, labels=_SELECTOR, fields=f"metadata.name={name}")
        both = all_of(pages, shown), self.claimants.renew(now_s=now_s)
        listed, renewed = await asyncio.gather(*both, return_exceptions=True)
        if isinstance(listed, BaseException):
            raise listed
        if isinstance(renewed, BaseException):
            raise renewed
        return listed.items

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

    def _tell_what_is_not_heeded(self, one: Heard) -> None:
        """Once of each namespace: there anybody may write Leases as he likes."""
        claim = one.claim
        if not claim.user:
            self._tell(
                f"lease {claim.lease} is not heeded: it says by no annotation"
                f" {ACCOUNT_ANNOTATION} whose it is",
                about=claim.home,
            )
        elif one.denied:
            which = "namespace " + few(one.denied, 5) if one.denied != [ALL] else "all namespaces"
            self._tell(
                f"lease {claim.lease} claims {which}, which its account {claim.account} may not"
                " look after: nothing there is left to it",
                about=claim.home,
            )

    def _tell(self, message: str, *, about: str | None = None) -> None:
        """Once; `about` stands for all messages with the same."""
        key = message if about is None else f"/{about}"
        if key not in self._told:
            remember(self._told, key, value=None, most=_MOST_TOLD)
            logger.warning("%s", message)


def shown(lease: Manifest) -> Manifest:
    """What of a Lease is read here, and no more: whoever may make some writes what he likes."""
    meta, spec = lease["metadata"], lease.get("spec") or {}
    notes = meta.get("annotations") or {}
    said = {
        SCOPE_ANNOTATION: notes.get(SCOPE_ANNOTATION, "")[:MOST_TEXT],
        ACCOUNT_ANNOTATION: notes.get(ACCOUNT_ANNOTATION, "")[:MOST_TEXT],
    }
    read = ("namespace", "name", "resourceVersion", "creationTimestamp")
    kept = {key: meta[key] for key in read if key in meta}
    held = ("holderIdentity", "leaseDurationSeconds")
    return {
        "metadata": {**kept, "annotations": said},
        "spec": {key: spec[key] for key in held if key in spec},
    }
