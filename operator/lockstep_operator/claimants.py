"""Whether those who claim namespaces by a Lease may look after them; `rivals` asks with every look.

Whoever has the usual role `edit` in one namespace may write a Lease that claims all others. So the
apiserver is asked, by SubjectAccessReview, whether the claimant's account may do there what every
operator does: patch the status of jobs. The claim counts for the namespaces where it may.

An answer counts for a minute. One that lets a claim count is asked anew before that, beside the
list of Leases: a look takes one call's time, and more only for claims that are new. Leases of
different namespaces take turns at being asked for, so many questions a look: what has no answer yet
does not count, and a flood of claims delays a renewal by four calls at the most. All that one claim
can ask is answered within the time that its operator waits before it begins (`Timing.lease_s`).

Who may not ask (403: roles that were not brought to this release) heeds no claim, and says so. That
is the safe side. A claim that nobody has proved may be anybody's, and would take jobs away for as
long as its author likes; two real operators of one namespace, and one of them without its right,
are two mistakes of an administrator, which the logs tell. When the apiserver does not answer at all
the others are not known (KubeError), and the lease is not renewed. `evaluationError` is not looked
at: a binding to a role that is not there makes one, and anybody may write such a binding.
"""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

from lockstep_api import names
from lockstep_operator.core.scope import Claim, to_ask
from lockstep_operator.errors import Refused
from lockstep_operator.kube import Kube
from lockstep_operator.rights import Called

COUNTS_S = 60.0
"""For so long does an answer count; after half of it it is asked anew."""
MOST_ASKED = 64
"""New questions of a look."""
AT_ONCE = 16
LOOKS_AFTER = Called("patch", names.GROUP, f"{names.PLURAL}/status")
"""What an operator may do in each namespace that it looks after, and nobody else."""

Question = tuple[str, str]
"""A user, and the namespace that he claims."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the apiserver said, and when it was asked."""

    allowed: bool | None
    """None: this operator may not ask."""
    since_s: float


@dataclass(frozen=True, slots=True)
class Heard:
    """What became of a claim."""

    claim: Claim
    """As it was made."""
    heeded: Claim | None
    """As far as it counts; None: not at all."""
    denied: Sequence[str]
    """The namespaces that its account may not look after; `ALL` among them: all."""


@dataclass(slots=True)
class Claimants:
    """Who may look after what."""

    kube: Kube
    refused: str = ""
    """Why this operator may not ask; empty: it may."""
    _answers: dict[Question, Answer] = field(default_factory=dict)

    async def renew(self, *, now_s: float) -> None:
        """Asks anew what lets a claim count, and soon counts no more.

        Raises:
            KubeError: there is no answer.
        """
        aged_s = now_s - COUNTS_S / 2
        answers = self._answers.items()
        await self._ask([one for one, it in answers if it.allowed and it.since_s <= aged_s], now_s)

    async def hear(self, claims: Sequence[Claim], *, mine: Claim, now_s: float) -> list[Heard]:
        """What counts of each claim, beside `mine`.

        Raises:
            KubeError: there is no answer.
        """
        asked = [to_ask(mine, claim) if claim.user else [] for claim in claims]
        of: dict[str, list[Question]] = {}
        for claim, namespaces in zip(claims, asked, strict=True):
            user = claim.user
            of.setdefault(claim.home, []).extend((user, one) for one in namespaces)
        known = {one: self._answers.get(one) for one in _in_turns(of.values())}
        self._answers = {
            one: it for one, it in known.items() if it and now_s < it.since_s + COUNTS_S
        }
        await self._ask([one for one in known if one not in self._answers], now_s)
        return [self._heard(*one) for one in zip(claims, asked, strict=True)]

    def _heard(self, claim: Claim, namespaces: list[str]) -> Heard:
        user = claim.user
        answers = {one: self._answers.get((user, one)) for one in namespaces}
        allowed = frozenset(one for one, it in answers.items() if it and it.allowed)
        denied = [one for one, it in answers.items() if it and it.allowed is False]
        if not claim.namespaces:
            return Heard(claim, claim if allowed else None, denied)
        return Heard(claim, replace(claim, namespaces=allowed) if allowed else None, denied)

    async def _ask(self, questions: Sequence[Question], now_s: float) -> None:
        """The first of them, some at once."""
        some = questions[:MOST_ASKED]
        waiting = iter(some)

        async def one_by_one() -> None:
            for user, namespace in waiting:
                try:
                    may = await self.kube.review_access(user, LOOKS_AFTER, namespace=namespace)
                except Refused as error:
                    self.refused = str(error)
                    self._answers.setdefault((user, namespace), Answer(None, now_s))
                else:
                    self.refused = ""
                    self._answers[user, namespace] = Answer(may, now_s)

        at_once = (one_by_one() for _ in some[:AT_ONCE])
        for failed in await asyncio.gather(*at_once, return_exceptions=True):
            if isinstance(failed, BaseException):
                raise failed


def _in_turns(lists: Iterable[list[Question]]) -> list[Question]:
    """The first of each list, then the second of each."""
    return [one for row in zip_longest(*lists) for one in row if one is not None]
