"""How a round's participants become clusters by the labels that they hold; pure, nothing is kept.

The planner calls it once a round and the simulator with it. A cluster's divergence is that of its
labels from those of all participants together, KL(cluster ‖ target) in nats, both smoothed; a
device that told no labels (or whose noised counts are all zero) counts as if it held the labels of
the whole round in their shares, so that it speaks for no cluster and against none.

Invariants: every participant is in one cluster and no cluster is empty; with fewer participants
than clusters there are fewer clusters. What comes out depends on who takes part, the rule, the
seed, the draw's number and what was kept, never on the order of the participants.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.random import Generator, SeedSequence, default_rng
from numpy.typing import NDArray

from lockstep_api.spec.tiers import ClusteringMethod

SMOOTHING = 1e-3
"""Added to each label's share: keeps divergences finite."""
SAMPLES_WEIGHT = 0.05
"""What log(examples of a cluster / mean of the clusters)² counts beside its divergence in nats: the
largest weight of those measured that leaves divergences where they are (tests/bench)."""
FEW = 200
"""Up to so many clients all candidates and all swaps are looked at, where these are of few labels
(`_MOST_WORK`)."""
_MOST_WORK = 100 * FEW**2
"""Pairs of clients times labels: a second of a core. A device may tell more labels than there are,
and all others then count as having these."""
POOL = 64
"""Above it so many candidates a step, members of a cluster and pairs of clusters."""
_STREAM = 0xC1A5
"""Tells these draws from others of the same seed and round."""
_LEAST_GAIN = 1e-9
_LEAST_SHARE = 1e-3
"""Clusters of fewer of the mean's examples are no worse: the logarithm stays finite."""
_LITERAL_SHARE = 0.75
"""Least size of a cluster of the source's text, of the mean size, where none is given."""

Floats = NDArray[np.float64]
Places = list[int]
"""Members of a cluster, by their places among the sorted participants."""


class LeavesEmpty(Exception):
    """The source's text leaves clusters without a client; the message has the numbers."""


@dataclass(frozen=True, slots=True)
class Member:
    """A participant of the round."""

    client: str
    histogram: Sequence[float]
    """Examples per label, noised or not; negative counts are none; empty: not told."""
    examples: int


@dataclass(frozen=True, slots=True)
class Rule:
    """How clusters are made: spec.clustering, with the number of clusters filled in."""

    method: ClusteringMethod
    clusters: int
    min_size: int | None = None
    """Fewest clients in a cluster; None: sizes within one of each other."""
    every_rounds: int = 1
    """Rounds for which a draw stays."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """One of a round's clusters."""

    name: str
    clients: tuple[str, ...]
    """In the order of the participants."""
    divergence: float | None
    """From the whole round, in nats; None: no participant told its labels."""


@dataclass(frozen=True, slots=True)
class Kept:
    """The clusters of an earlier round."""

    round: int
    clusters: Sequence[Sequence[str]]
    """The clients of each."""


def cluster(
    members: Sequence[Member], *, rule: Rule, seed: int, round: int, kept: Kept | None = None
) -> tuple[Cluster, ...]:
    """The clusters of a round, named c0, c1, …

    Without a usable `kept` they are drawn; the draw depends on the round only by its number,
    (round - 1) // every_rounds. `kept` is used when it is of the same draw and the round is not the
    first of it: then clients stay in their cluster, and newcomers go where the objective grows
    least, those first who lack clients. Where that would leave a cluster below its least size
    all are drawn again.

    Raises:
        LeavesEmpty: method literal, and labels so unequal that a cluster stays empty.
    """
    table = _table(members)
    names = [member.client for member in members]
    number = (round - 1) // rule.every_rounds
    places = _kept_places(table, rule=rule, number=number, round=round, kept=kept)
    if places is None and members:
        random = default_rng(SeedSequence((seed, number, _STREAM)))
        places = _drawn(table, rule, random=random)
    order = {name: place for place, name in enumerate(names)}
    return tuple(
        Cluster(
            f"c{number}",
            tuple(sorted((table.clients[place] for place in mine), key=order.__getitem__)),
            table.divergence(mine),
        )
        for number, mine in enumerate(places or ())
    )


@dataclass(frozen=True, slots=True)
class _Table:
    """The participants as numbers, sorted by name; a last row of zeros stands for nobody."""

    clients: tuple[str, ...]
    counts: Floats
    """(n + 1, labels)"""
    examples: Floats
    """(n + 1,)"""
    log_target: Floats = field(repr=False)
    """(labels,) of the smoothed shares of all participants."""
    told: bool
    """Whether anybody told labels."""

    @property
    def size(self) -> int:
        return len(self.clients)

    @property
    def is_small(self) -> bool:
        """Whether all of it may be looked at."""
        return self.size <= FEW and self.size**2 * self.counts.shape[1] <= _MOST_WORK

    def kl(self, counts: Floats) -> Floats:
        """(..., labels) -> (...,) divergence of such sums of counts from the target."""
        labels = counts.shape[-1]
        totals = np.maximum(counts.sum(axis=-1, keepdims=True), 1e-12)
        shares = (counts / totals + SMOOTHING) / (1 + labels * SMOOTHING)
        found: Floats = (shares * (np.log(shares) - self.log_target)).sum(axis=-1)
        return found

    def divergence(self, places: Places) -> float | None:
        if not self.told:
            return None
        return max(0.0, float(self.kl(self.counts[places].sum(axis=0))))


def _table(members: Sequence[Member]) -> _Table:
    ordered = sorted(members, key=lambda member: member.client)
    labels = max((len(member.histogram) for member in ordered), default=0) or 1
    counts = np.zeros((len(ordered) + 1, labels))
    for row, member in zip(counts, ordered, strict=False):
        row[: len(member.histogram)] = member.histogram
    np.clip(counts, 0.0, None, out=counts)
    examples = np.array([*(member.examples for member in ordered), 0], np.float64)
    totals = counts.sum(axis=0)
    told = bool(totals.any())
    mix = totals / totals.sum() if told else np.full(labels, 1 / labels)
    unknown = ~counts[:-1].any(axis=1)
    counts[:-1][unknown] = mix * np.maximum(examples[:-1][unknown, None], 1.0)
    target = (mix + SMOOTHING) / (1 + labels * SMOOTHING)
    clients = tuple(member.client for member in ordered)
    return _Table(clients, counts, examples, np.log(target), told)


@dataclass(frozen=True, slots=True)
class _Objective:
    """What is made small: the sum over clusters of divergence and unevenness of examples."""

    table: _Table
    mean_examples: float

    def of(self, counts: Floats, examples: Floats) -> Floats:
        """(..., labels), (...,) -> (...,) of clusters of such sums."""
        shares = np.maximum(examples / self.mean_examples, _LEAST_SHARE)
        uneven: Floats = SAMPLES_WEIGHT * np.log(shares) ** 2
        return self.table.kl(counts) + uneven if self.table.told else uneven

    def of_places(self, places: Places) -> float:
        table = self.table
        return float(self.of(table.counts[places].sum(axis=0), table.examples[places].sum()))

    def swapped(self, a: Places, b: Places, *, from_a: Places, from_b: Places) -> Floats:
        """(len(from_a), len(from_b)): of `a` and `b` after each exchange of two members."""
        counts, examples = self.table.counts, self.table.examples
        moved = counts[from_b][None] - counts[from_a][:, None]
        moved_examples = examples[from_b][None] - examples[from_a][:, None]
        after_a = self.of(counts[a].sum(0) + moved, examples[a].sum() + moved_examples)
        return after_a + self.of(counts[b].sum(0) - moved, examples[b].sum() - moved_examples)


def _objective(table: _Table, clusters: int) -> _Objective:
    return _Objective(table, max(float(table.examples.sum()), 1.0) / clusters)


def _drawn(table: _Table, rule: Rule, *, random: Generator) -> list[Places]:
    clusters = _number(table.size, rule)
    match rule.method:
        case ClusteringMethod.NONE:
            return [[*range(table.size)]]
        case ClusteringMethod.RANDOM:
            order = random.permutation(table.size)
            return [part.tolist() for part in np.array_split(order, clusters)]
        case ClusteringMethod.LITERAL:
            return _literal(table, rule, random=random)
        case ClusteringMethod.KL:
            objective = _objective(table, clusters)
            start = _capped(objective, clusters, random=random)
            return _improved(start, objective, least=rule.min_size)


def _number(clients: int, rule: Rule) -> int:
    """How many clusters there are: never more than clients, nor than the least size allows."""
    if rule.method is ClusteringMethod.NONE:
        return 1
    return max(1, min(rule.clusters, clients // (rule.min_size or 1)))


def _capped(objective: _Objective, clusters: int, *, random: Generator) -> list[Places]:
    """Cluster by cluster the candidate that helps most, up to sizes within one of each other."""
    table = objective.table
    left: Places = random.permutation(table.size).tolist()
    sizes = [len(part) for part in np.array_split(np.arange(table.size), clusters)]
    filled: list[Places] = []
    for size in sizes:
        mine: Places = []
        counts, examples = np.zeros(table.counts.shape[1]), 0.0
        for step in range(size):
            pool = left[: 1 if step == 0 else len(left) if table.is_small else POOL]
            # examples are judged as if the cluster were full with members like these
            scale = size / (step + 1)
            after = examples + table.examples[pool]
            best = int(objective.of(counts + table.counts[pool], after * scale).argmin())
            mine.append(left.pop(best))
            counts, examples = counts + table.counts[mine[-1]], float(after[best])
        filled.append(mine)
    return filled


def _improved(clusters: list[Places], objective: _Objective, *, least: int | None) -> list[Places]:
    """Exchanges pairs of members until no exchange helps; with `least` members also move alone.

    Where it is not small the work is bounded: one pass, over the worst cluster beside others, and
    over a pool of members of each.
    """
    few = objective.table.is_small
    found = [[*one] for one in clusters]
    helped = True
    while helped:
        pairs = [*combinations(range(len(found)), 2)] if few else _worst_first(found, objective)
        exchanged = [_exchange(found, one, objective=objective, least=least) for one in pairs]
        helped = few and any(exchanged)
    return found


def _worst_first(clusters: Sequence[Places], objective: _Objective) -> list[tuple[int, int]]:
    ranked = np.argsort([-objective.of_places(one) for one in clusters], kind="stable").tolist()
    worst, *others = ranked
    return [(worst, other) for other in reversed(others)][:POOL]


def _exchange(
    clusters: list[Places], pair: tuple[int, int], *, objective: _Objective, least: int | None
) -> bool:
    """Best exchanges between two clusters, one after another; whether there was one."""
    a, b = clusters[pair[0]], clusters[pair[1]]
    now = objective.of_places(a) + objective.of_places(b)
    many = not objective.table.is_small
    helped = False
    while True:
        from_a, from_b = _movable(a, b, nobody=objective.table.size, least=least)
        if many:
            from_a, from_b = from_a[:POOL], from_b[:POOL]
        after = objective.swapped(a, b, from_a=from_a, from_b=from_b)
        i, j = np.unravel_index(int(after.argmin()), after.shape)
        if after[i, j] > now - _LEAST_GAIN:
            return helped
        _swap(a, b, gives=from_a[int(i)], takes=from_b[int(j)])
        now, helped = float(after[i, j]), True
        if many:
            return helped


def _movable(a: Places, b: Places, *, nobody: int, least: int | None) -> tuple[Places, Places]:
    """Who may leave either; nobody may, where the other is large enough to give one away."""
    if least is None:
        return [*a], [*b]
    from_a = [*a, nobody] if len(b) > least else [*a]
    from_b = [*b, nobody] if len(a) > least else [*b]
    return from_a, from_b


def _swap(a: Places, b: Places, *, gives: int, takes: int) -> None:
    for source, target, place in ((a, b, gives), (b, a, takes)):
        if place in source:  # nobody is in none
            source.remove(place)
            target.append(place)


def _literal(table: _Table, rule: Rule, *, random: Generator) -> list[Places]:
    """The source's greedy text: whoever lowers a cluster's divergence joins it, without a cap."""
    left: Places = random.permutation(table.size).tolist()
    clusters = _number(table.size, rule)
    least = rule.min_size or int(_LITERAL_SHARE * table.size / clusters)
    filled: list[Places] = []
    for _ in range(clusters):
        mine: Places = []
        now = np.inf
        for place in [*left]:
            then = float(table.kl(table.counts[[*mine, place]].sum(axis=0)))
            if then < now:
                mine.append(place)
                left.remove(place)
                now = then
        while len(mine) < least and left:
            sums = table.counts[mine].sum(axis=0) + table.counts[left]
            mine.append(left.pop(int(table.kl(sums).argmin())))
        filled.append(mine)
    _refuse_empty(filled, clients=table.size)
    _add_rest(filled, left, table=table)
    return filled


def _refuse_empty(clusters: Sequence[Places], *, clients: int) -> None:
    empty = sum(not one for one in clusters)
    if empty:
        raise LeavesEmpty(
            f"clustering.method literal leaves {empty} of {len(clusters)} clusters empty: the "
            f"largest took {max(map(len, clusters))} of {clients} clients; use method kl, or "
            "fewer clusters"
        )


def _add_rest(clusters: Sequence[Places], rest: Iterable[int], *, table: _Table) -> None:
    for place in rest:
        sums = np.array([table.counts[one].sum(axis=0) for one in clusters])
        grows = table.kl(sums + table.counts[place]) - table.kl(sums)
        clusters[int(grows.argmin())].append(place)


def _kept_places(
    table: _Table, *, rule: Rule, number: int, round: int, kept: Kept | None
) -> list[Places] | None:
    """The clusters that were there, with newcomers; None: they are drawn."""
    if kept is None or (round - 1) % rule.every_rounds == 0:
        return None
    if (kept.round - 1) // rule.every_rounds != number:
        return None
    place_of: Mapping[str, int] = {client: place for place, client in enumerate(table.clients)}
    stay = [[place_of[c] for c in clients if c in place_of] for clients in kept.clusters]
    if len(stay) != _number(table.size, rule):
        return None
    here = {place for one in stay for place in one}
    _join(stay, [p for p in range(table.size) if p not in here], table=table, rule=rule)
    least = rule.min_size or 1
    return stay if all(len(one) >= least for one in stay) else None


def _join(clusters: Sequence[Places], newcomers: Places, *, table: _Table, rule: Rule) -> None:
    """Each where the objective grows least, of those below the least size, else below the cap."""
    objective = _objective(table, len(clusters))
    cap = -(-table.size // len(clusters))
    for place in newcomers:
        lacking = [one for one in clusters if len(one) < (rule.min_size or 1)]
        open_ones = lacking or [one for one in clusters if len(one) < cap]

        def grows(one: Places, place: int = place) -> float:
            return objective.of_places([*one, place]) - objective.of_places(one)

        min(open_ones, key=grows).append(place)
