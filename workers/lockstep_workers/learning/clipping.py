"""How far an update may take the model, and what is remembered of how far updates go.

`learning.server` holds each update against it before it weighs one, and so does an edge, with the
same limits (`learning.cluster_averaging`). Each vector of an update is held against its own: its
distance is ‖vector − what its client began with‖, for one that tells a change (a control variate,
a gradient) ‖vector‖. One that is further than its bound keeps its direction and ends there.

The bound is known before a round begins, so that sums stay streams and no order of arrival counts:
`clipNorm` times how far the median update of the rounds before went. What the next round knows is
the median of this one, but at most 4 times what this round knew, and at least a quarter of it: so a
round of few clients, all dishonest, loosens it a little. A minority moves a median only among
honest distances. What round 1 knows comes from nobody's update: the server has trained a few steps
itself (`learning.trial`), with the job's data, batches and learning rate.

Who does more steps than the median goes further, at most in proportion to how often its gradients
count (`effective_steps`): its bound is as much wider, 100 times at most, since with a budget a
client says itself how many it did. Gradients that are told do not grow with steps, and whoever
joins late tells a whole one where others tell changes: their bound never falls below that of
round 1.
Invariant: what a round knows follows from its updates whatever their order, and is in the state,
so in checkpoints.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low

import numpy as np

from lockstep_workers.learning.bounding import distance, scale
from lockstep_workers.learning.normalised import effective_steps
from lockstep_workers.learning.strategy import MODEL, Contribution, Vector
from lockstep_workers.tensors import Flat

STEPS = "steps"
"""Of what is known: the median of the steps behind the distances."""
LEAST = "least_"
"""Before the name of a vector: what is known of it never falls below."""
_CHANGE = 4.0
_WIDEST = 100.0

Reach = Mapping[str, float]
"""What a round knows: by upload how far the median one went, `STEPS`, and what is `LEAST`."""


@dataclass(frozen=True, slots=True)
class Reached:
    """How far the server came when it trained itself."""

    distance: float
    """From where it began."""
    gradient: float
    """‖g‖ of its first step."""
    steps: int
    """The steps that it did."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What was found of an update, by upload."""

    distances: tuple[float, ...] = ()
    """As it came; empty: it was not looked at."""
    kept: tuple[float, ...] = ()
    """The share of each difference that was left; empty: nothing was clipped."""


UNSEEN = Measured()


def first_reach(reached: Reached, uploads: Sequence[str]) -> Reach:
    """What round 1 knows."""
    gradients = [name for name in uploads if name != MODEL]
    known = {MODEL: reached.distance, STEPS: float(reached.steps)}
    known |= dict.fromkeys(gradients, reached.gradient)
    return known | {LEAST + name: reached.gradient for name in gradients}


def next_reach(known: Reach, given: Sequence[Contribution], *, uploads: Sequence[str],
               momentum: float) -> Reach:  # fmt: skip
    """What the next round knows, after one with these contributions."""
    measured = [one for one in given if len(one.distances) == len(uploads)]
    if not measured or not known:
        return known
    steps = float(median_low(one.steps for one in measured))
    after = {**known, STEPS: steps}
    for place, name in enumerate(uploads):
        far = [one.distances[place] for one in measured]
        before = known.get(name, 0.0)
        if name == MODEL:
            more = [wider(one.steps, steps, momentum=momentum) for one in measured]
            far = [apart / times for apart, times in zip(far, more, strict=True)]
            before *= wider(steps, known[STEPS], momentum=momentum)
        median = median_low(far)
        if before > 0:
            median = min(max(median, before / _CHANGE), before * _CHANGE)
        after[name] = max(median, known.get(LEAST + name, 0.0))
    return after


def bounds_of(known: Reach, clip_norm: float) -> dict[str, float]:
    """How far each vector of a round may go, and the steps for which that holds; one of which
    nobody knows how far it goes is not in it."""
    if not clip_norm or not known:
        return {}
    far = {name: value for name, value in known.items() if not name.startswith(LEAST) and value > 0}
    return {name: clip_norm * value for name, value in far.items()} | {STEPS: known[STEPS]}


def wider(steps: float, than: float, *, momentum: float) -> float:
    """How many times as far as with `than` steps a client may go."""
    if steps <= than:
        return 1.0
    more = effective_steps(int(steps), momentum) / effective_steps(max(1, int(than)), momentum)
    return min(more, _WIDEST)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a round's updates are held against."""

    uploads: tuple[str, ...]
    origins: Mapping[str, Vector]
    """What clients began with; an upload that is not in it tells a change."""
    bounds: Mapping[str, float]
    """As `bounds_of`; empty: nothing is clipped."""
    momentum: float

    def hold(self, flat: Flat, steps: int) -> Measured:
        """Brings an update of so many steps back within its bounds, in place."""
        distances, kept = [], []
        for name, vector in zip(self.uploads, np.split(flat, len(self.uploads)), strict=True):
            origin = self.origins.get(name)
            far, bound = distance(vector, origin), self._bound(name, steps)
            share = 1.0 if far <= bound else bound / far
            if share < 1.0:
                scale(vector, share, origin=origin)
            distances.append(far)
            kept.append(share)
        return Measured(tuple(distances), tuple(kept) if min(kept) < 1.0 else ())

    def _bound(self, name: str, steps: int) -> float:
        if name not in self.bounds:
            return float("inf")
        more = 1.0
        if name == MODEL:
            more = wider(steps, self.bounds[STEPS], momentum=self.momentum)
        return more * self.bounds[name]
