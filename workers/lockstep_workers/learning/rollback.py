"""Which rounds are taken back, whom that is put down to, and who sits out for it. Pure.

`cloud.job` and the simulator ask once a round's model was evaluated. It is taken back when its loss
is not finite, or more than `rollbackLoss` times the larger of the loss before it and that of a
model that guesses (ln of the classes). Honest training gets worse from round to round, too, with
unequal labels and few clients, but not by so much: 1.7 times was the most that was seen, 5 is the
default (docs/strategies.md). Then the state is as before the round, which is played again without
the clients whose updates were unusual (`unusual`); these sit out the next rounds, and may return.
If nobody's was, nobody can be left out: a loss that is finite stands, one that is not is tried
again until the job fails.
Invariant: a round is taken back twice at most before it stands, and at most half of the clients
sit out at once, so nobody ends a job by it.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import median_low

import numpy as np
from numpy.typing import NDArray

from lockstep_api.mistrust import Mistrusted, SatOut
from lockstep_api.text import few
from lockstep_workers.learning.rounds import SHOWN, Progress, Round, Tries

SITS_OUT = 5
"""Rounds, the one that was taken back included."""
_TAKEN_BACK = 2
NOT_FINITE = "the loss on the held-out data is not finite"
_FAR = 3.0
"""Times the median distance of the round."""
_AGAINST = -0.15
"""Cosine to the sum of all others': of honest ones it is positive, or about 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """What is known of an update in a round."""

    distance: float
    """How far it went, as it came; in steps of the median client's."""
    direction: NDArray[np.float64] | None = None
    """A sketch of where it went (`bounding.Sketch`); None: an edge has it."""


def unusual(given: Mapping[str, Given]) -> dict[str, str]:
    """Clients whose update stands out among a round's, and by what: fewer than half of them.

    One stands out that went more than 3 times as far as the median, or against the sum of where
    all others went, each counted the same (cosine below -0.15). The furthest come first.
    """
    if not given:
        return {}
    median = median_low(one.distance for one in given.values())
    total = sum((one.direction for one in given.values() if one.direction is not None), np.zeros(1))
    found: dict[str, tuple[float, str]] = {}
    for client, one in sorted(given.items()):
        times = one.distance / median if median > 0 else (math.inf if one.distance > 0 else 1.0)
        against = _cosine(one.direction, total)
        if times > _FAR:
            found[client] = (times, f"went {times:.3g} times as far as the median")
        elif against < _AGAINST:
            found[client] = (-against, f"went against the others (cosine {against:.2f})")
    first = sorted(found, key=lambda client: -found[client][0])[: (len(given) - 1) // 2]
    return {client: found[client][1] for client in first}


def _cosine(direction: NDArray[np.float64] | None, total: NDArray[np.float64]) -> float:
    """Of a direction to what is left of their sum without it."""
    if direction is None:
        return 0.0
    others = total - direction
    length = float(np.sqrt(np.sum(np.square(others))))
    return float(np.sum(direction * others)) / length if length > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Judge:
    """How a job's rounds are judged."""

    most_times: float = 0.0
    """`rollbackLoss`; 0: none is taken back."""
    classes: int = 2

    def problem(self, loss: float, before: float | None) -> str | None:
        """Why a round is taken back with this loss after one with that; None: it is not."""
        if not self.most_times:
            return None
        if not math.isfinite(loss):
            return NOT_FINITE
        guessing = math.log(max(2, self.classes))
        known = max(guessing, 0.0 if before is None else before)
        if loss <= self.most_times * known:
            return None
        times = loss / known
        return f"the loss on the held-out data is {loss:.3g}, {times:.3g} times {known:.3g}"


@dataclass(frozen=True, slots=True)
class Ruling:
    """What becomes of a round whose loss is not as it should be."""

    text: str
    """For people."""
    back: bool
    """Whether it is taken back and played again; else it stands."""
    sit_out: Mapping[str, int] = field(default_factory=dict)
    """Client → the round from which it may return, of all who sit out now."""


def ruling(
    why: str, progress: Progress, *, suspects: Mapping[str, str], clients: int, tries: Tries
) -> Ruling:
    """What becomes of the round after `progress`.

    Raises:
        JobFailed: its loss is not finite, nobody can be left out, and not for the first time.
    """
    number = progress.round + 1
    sitting = {client: until for client, until in progress.sit_out.items() if until > number}
    room = max(0, clients // 2 - len(sitting))
    chosen = [client for client in suspects if client not in sitting][:room]
    if chosen and tries.taken_back < _TAKEN_BACK:
        tries.took_back(why, {client: suspects[client] for client in chosen})
        names = few([f"{client} {suspects[client]}" for client in chosen], SHOWN, comma="; ")
        text = (
            f"round {number} is taken back: {why}. It is played again without the updates that "
            f"stand out, whose clients may return in round {number + SITS_OUT}: {names}"
        )
        return Ruling(text, True, sitting | dict.fromkeys(chosen, number + SITS_OUT))
    if why == NOT_FINITE:
        advice = "no update stands out: lower training.learningRate"
        text = tries.again(f"round {number}: {why}, and {advice}")
        tries.took_back(why, {})
        return Ruling(text, True, sitting)
    return Ruling(f"round {number} stands although {why}: no more updates stand out", False)


def mistrusted(done: Round, before: Progress, *, tries: Tries) -> Mistrusted | None:
    """What the report of a round says of those that it was taken back for, and of who sat it out;
    None: it is as any other."""
    there = set(done.participants())
    sat_out = [
        SatOut(client=client, returns=until, why=tries.stood_out.get(client))
        for client, until in sorted(before.sit_out.items())
        if until > done.number and client not in there
    ]
    if not tries.whys and not sat_out:
        return None
    return Mistrusted(taken_back=list(tries.whys), sat_out=sat_out)
