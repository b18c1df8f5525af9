"""How good the planner's clusters and matchings are beside chance, plainer ways and the optimum.

    python -m tests.bench.split_decisions

The product's own functions on drawn devices, nothing is run. `cluster_rows` and `matching_rows`
give the tables to whoever writes a page. Clusters: the product's Dirichlet(0.1) partition of
Fashion-MNIST; of its labels a partition sees only that there are 6,000 of each of 10, so the data
set is not needed. Matchings: the round's time is that of the longest cluster, divided by the mean
of random matchings of the same drawing that give each edge as many clusters as any other.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations, product

import numpy as np
from numpy.random import Generator, default_rng

from lockstep_api.spec import Partition, PartitionScheme
from lockstep_api.spec.tiers import ClusteringMethod
from lockstep_operator.core import clustering
from lockstep_operator.core.clustering import Cluster, LeavesEmpty, Member, Rule, cluster
from lockstep_operator.core.matching import Costs, Held, least_bottleneck, least_sum
from lockstep_workers.learning.histograms import drawn_by_seed, noised
from lockstep_workers.learning.partition import partition
from tests.support.tiered import CNN

SEEDS = 20
RANDOM_DRAWS = 40
CLUSTER_SIZES = ((8, 2), (20, 2), (20, 4), (40, 5), (100, 10))
FLOORS = {(8, 2): 0.70, (20, 2): 0.30, (20, 4): 0.50, (40, 5): 0.25, (100, 10): 0.12}
"""Clients and clusters → most of the mean divergence of random clusters."""
LABELS = np.arange(60_000) % 10

Scores = Sequence[float]
Clusters = tuple[Cluster, ...]


@cache
def members(clients: int, seed: int) -> tuple[Member, ...]:
    """The clients of a job and their labels."""
    rule = Partition(scheme=PartitionScheme.DIRICHLET, alpha=0.1)
    parts = partition(LABELS, [1.0] * clients, spec=rule, seed=seed)
    counts = [np.bincount(LABELS[part], minlength=10) for part in parts]
    return tuple(
        Member(f"d-{i}", tuple(one.tolist()), len(part))
        for i, (one, part) in enumerate(zip(counts, parts, strict=True))
    )


def made(of: Sequence[Member], method: ClusteringMethod, clusters: int, *, seed: int) -> Clusters:
    """Clusters of the first round."""
    return cluster(of, rule=Rule(method, clusters), seed=seed, round=1)


def divergence(of: Clusters) -> float:
    """Mean of the clusters', in nats."""
    return float(np.mean([one.divergence for one in of]))


@cache
def random_divergence(clients: int, clusters: int, seed: int) -> float:
    """Mean of random clusters of equal size."""
    of = members(clients, seed)
    drawn = [
        divergence(made(of, ClusteringMethod.RANDOM, clusters, seed=draw))
        for draw in range(RANDOM_DRAWS)
    ]
    return float(np.mean(drawn))


@cache
def by_labels(clients: int, clusters: int, seed: int) -> Clusters:
    """The product's."""
    return made(members(clients, seed), ClusteringMethod.KL, clusters, seed=seed)


def evenness(of: Clusters, clients: Sequence[Member]) -> float:
    """Examples of the largest cluster over those of the smallest."""
    examples = {one.client: one.examples for one in clients}
    sums = [sum(examples[client] for client in one.clients) for one in of]
    return max(sums) / min(sums)


def capped_only(of: Sequence[Member], clusters: int, *, seed: int) -> float:
    """Mean divergence before any exchange."""
    table = clustering._table(of)
    objective = clustering._objective(table, clusters)
    found = clustering._capped(objective, clusters, random=default_rng(seed))
    return float(np.mean([table.divergence(one) or 0.0 for one in found]))


def best_of_two(of: Sequence[Member]) -> float:
    """Mean divergence of the best two clusters of equal size, by trying all."""
    table = clustering._table(of)
    everyone = {*range(len(of))}
    return min(
        sum(table.divergence([*half]) or 0.0 for half in (first, everyone - {*first})) / 2
        for first in combinations(range(len(of)), len(of) // 2)
    )


def ratio(clients: int, clusters: int, *, seeds: Sequence[int] = range(SEEDS)) -> list[float]:
    """Of each seed: the product's mean divergence over that of random clusters."""
    return [
        divergence(by_labels(clients, clusters, seed)) / random_divergence(clients, clusters, seed)
        for seed in seeds
    ]


def literal(clients: int, clusters: int) -> str:
    """How often the source's text leaves no cluster empty, and its ratio then."""
    found = []
    for seed in range(SEEDS):
        try:
            of = made(members(clients, seed), ClusteringMethod.LITERAL, clusters, seed=seed)
        except LeavesEmpty:
            continue
        found.append(divergence(of) / random_divergence(clients, clusters, seed))
    refused = f"refused {SEEDS - len(found)} of {SEEDS}"
    return f"{refused}; else {np.mean(found):.2f}" if found else refused


def noise(clients: int, clusters: int, epsilon: float) -> Scores:
    """Of each seed: the ratio of clusters by noised labels, judged by the true ones."""
    return [_noised_ratio(clients, clusters, epsilon=epsilon, seed=seed) for seed in range(SEEDS)]


def _noised_ratio(clients: int, clusters: int, *, epsilon: float, seed: int) -> float:
    of = members(clients, seed)
    told = [
        replace(
            one,
            histogram=noised(
                [int(n) for n in one.histogram],
                epsilon=epsilon,
                draw=drawn_by_seed(seed, one.client),
            ),
        )
        for one in of
    ]
    found = made(told, ClusteringMethod.KL, clusters, seed=seed)
    table, place = (
        clustering._table(of),
        {one: p for p, one in enumerate(sorted(m.client for m in of))},
    )
    true = [table.divergence([place[c] for c in one.clients]) or 0.0 for one in found]
    return float(np.mean(true)) / random_divergence(clients, clusters, seed)


def shown(of: Scores) -> str:
    """Mean and standard error."""
    return f"{np.mean(of):.2f} ± {np.std(of, ddof=1) / np.sqrt(len(of)):.2f}"


def cluster_rows() -> list[str]:
    """Mean divergence of clusters, as a share of random ones."""
    lines = [
        "| clients / clusters | random, nats | literal | capped | capped, exchanged (kl) | floor "
        "| best | largest / smallest by examples: random, kl |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for clients, clusters in CLUSTER_SIZES:
        drawn = [random_divergence(clients, clusters, seed) for seed in range(SEEDS)]
        of = [members(clients, seed) for seed in range(SEEDS)]
        capped = [
            capped_only(one, clusters, seed=seed) / drawn[seed] for seed, one in enumerate(of)
        ]
        best = (
            [best_of_two(one) / drawn[seed] for seed, one in enumerate(of)] if clients < 10 else []
        )
        uneven = [
            np.mean([evenness(made(one, m, clusters, seed=s), one) for s, one in enumerate(of)])
            for m in (ClusteringMethod.RANDOM, ClusteringMethod.KL)
        ]
        lines.append(
            f"| {clients} / {clusters} | {np.mean(drawn):.2f} | {literal(clients, clusters)} "
            f"| {shown(capped)} | {shown(ratio(clients, clusters))} "
            f"| {FLOORS[clients, clusters]:.2f} | {shown(best) if best else '–'} "
            f"| {uneven[0]:.1f}, {uneven[1]:.1f} |"
        )
    return lines


def noise_rows() -> list[str]:
    """What noise on the labels costs clusters."""
    epsilons = (1.0, 0.1, 0.02, 0.005)
    lines = [
        "| clients / clusters | no noise | " + " | ".join(f"ε = {e:g}" for e in epsilons) + " |",
        "| --- " * (len(epsilons) + 2) + "|",
    ]
    for clients, clusters in ((20, 4), (100, 10)):
        cells = [shown(ratio(clients, clusters))]
        cells += [shown(noise(clients, clusters, epsilon)) for epsilon in epsilons]
        lines.append(f"| {clients} / {clusters} | {' | '.join(cells)} |")
    return lines


def time_rows() -> list[str]:
    """What the decisions take of a core."""
    lines = ["| decision | size | CPU ms, median of 5 |", "| --- | --- | --- |"]
    for clients, clusters in ((100, 10), (200, 10), (1000, 10), (1000, 50)):
        of = members(clients, 0)
        taken = _taken(lambda of=of, m=clusters: made(of, ClusteringMethod.KL, m, seed=0))  # type: ignore[misc]
        lines.append(f"| clusters | {clients} clients, {clusters} clusters | {taken:.0f} |")
    for clusters, edges in ((8, 8), (100, 20)):
        costs = drawn_costs(TWO_REGIONS, clusters, edges, random=default_rng(0))
        for name, method in (("bottleneck", least_bottleneck), ("sum", least_sum)):
            taken = _taken(lambda costs=costs, method=method: method(costs))  # type: ignore[misc]
            lines.append(f"| matching, {name} | {clusters} clusters, {edges} edges | {taken:.1f} |")
    return lines


def _taken(work: Callable[[], object]) -> float:
    taken = []
    for _ in range(5):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return 1000 * float(np.median(taken))


@dataclass(frozen=True, slots=True)
class Scene:
    """Devices, edges and the network between them; speeds are lognormal."""

    name: str
    regions: int = 2
    """Into another region a line has 0.35 of its bandwidth and 5 times its latency."""
    edges_drawn: bool = False
    """Edges are in regions that are drawn; else there are as many in each."""
    by_place: bool = True
    """A cluster's devices are in one region, which is drawn; else each device's is."""
    line_sigma: float = 0.6
    port_sigma: float = 0.5
    speed_sigma: float = 0.7


DEVICES, BATCH, STEPS = 4, 32, 25
LINE_MBPS, PORT_MBPS, SPEED, LATENCY_S = 40.0, 400.0, 40e9, 0.002
CUT = CNN[2]
SETTING = (
    f"{DEVICES} devices a cluster, batch {BATCH}, {STEPS} steps a round, the built-in cnn, cut "
    f"after its first pooling, float32 on the wire; devices' lines {LINE_MBPS:g} Mbit/s (median) "
    f"with {1000 * LATENCY_S:g} ms each way, edges' ports {PORT_MBPS:g} Mbit/s, shared by a "
    f"cluster's devices, edges' speed {SPEED / 1e9:g} GFLOP/s, shared by its clusters"
)
TWO_REGIONS = Scene("two regions")
SCENES = (
    (TWO_REGIONS, ((2, 2), (4, 3), (4, 4), (8, 8))),
    (Scene("two regions, maybe all edges in one", edges_drawn=True), ((2, 2), (4, 4))),
    (Scene("two regions, devices of a cluster in both", by_place=False), ((4, 4), (8, 8))),
    (
        Scene("two regions, spreads × 0.4", line_sigma=0.24, port_sigma=0.2, speed_sigma=0.28),
        ((4, 4),),
    ),
    (Scene("one region", regions=1), ((4, 4),)),
    (Scene("one region, equal edges", regions=1, port_sigma=0, speed_sigma=0), ((4, 4),)),
    (Scene("all equal", regions=1, line_sigma=0, port_sigma=0, speed_sigma=0), ((4, 4),)),
)
MATCHED_FLOORS = {(2, 2): 0.80, (4, 4): 0.70}
"""Clusters and edges → most of the round time of random matchings, in the scene of two regions."""
DRAWINGS = 80
MOST_TRIED = 5000
"""Matchings up to which all are tried."""


def drawn_costs(scene: Scene, clusters: int, edges: int, *, random: Generator) -> Costs:
    """A drawing of a scene."""

    def spread(
        median: float, sigma: float, *shape: int
    ) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
        return median * np.exp(sigma * random.standard_normal(shape))

    lines = spread(LINE_MBPS, scene.line_sigma, clusters, DEVICES)
    ports = spread(PORT_MBPS, scene.port_sigma, edges)
    speeds = spread(SPEED, scene.speed_sigma, edges)
    homes = random.integers(scene.regions, size=(clusters, 1 if scene.by_place else DEVICES))
    places = np.arange(edges) % scene.regions
    if scene.edges_drawn:
        places = random.integers(scene.regions, size=edges)
    far = homes[:, :, None] != places  # (clusters, devices, edges)
    mbps = np.minimum(lines[:, :, None] * np.where(far, 0.35, 1.0), ports / DEVICES)
    mbit = 2 * 4 * BATCH * CUT.cut_values * 8e-6
    step_s = mbit / mbps + 2 * LATENCY_S * np.where(far, 5.0, 1.0)
    work_s = STEPS * DEVICES * BATCH * CUT.back_flops / speeds
    return Costs(
        (STEPS * step_s).max(axis=1).tolist(),
        np.broadcast_to(work_s, (clusters, edges)).tolist(),
        (clusters,) * edges,
    )


def nearest(costs: Costs) -> Held:
    """Each cluster at the edge to which its devices send fastest."""
    return _held([int(np.argmin(row)) for row in costs.devices_s], edges=len(costs.room))


def greedy(costs: Costs) -> Held:
    """One cluster after another where it takes least beside those that are there."""
    held: Held = [[] for _ in costs.room]
    for k in range(len(costs.devices_s)):
        taken = [costs.seconds([k, *on], edge=e)[0] for e, on in enumerate(held)]
        held[int(np.argmin(taken))].append(k)
    return held


def every(costs: Costs) -> Iterator[Held]:
    """All matchings."""
    edges = len(costs.room)
    for chosen in product(range(edges), repeat=len(costs.devices_s)):
        yield _held(chosen, edges=edges)


def at_random(costs: Costs, random: Generator) -> float:
    """Mean round time of matchings that give each edge as many clusters as any other."""
    clusters, edges = len(costs.devices_s), len(costs.room)
    drawn = []
    for _ in range(RANDOM_DRAWS):
        order = random.permutation(edges)
        chosen = order[random.permutation(clusters) % edges]
        drawn.append(costs.score(_held(chosen.tolist(), edges=edges))[0])
    return float(np.mean(drawn))


def _held(chosen: Sequence[int], *, edges: int) -> Held:
    return [[k for k, its in enumerate(chosen) if its == e] for e in range(edges)]


WAYS: dict[str, Callable[[Costs], Held]] = {
    "nearest": nearest,
    "greedy": greedy,
    "sum": least_sum,
    "bottleneck": least_bottleneck,
}


def matchings(scene: Scene, clusters: int, edges: int) -> dict[str, list[float]]:
    """Way → of each drawing, the round's time over that of random matchings."""
    found: dict[str, list[float]] = {way: [] for way in (*WAYS, "best")}
    for drawing in range(DRAWINGS):
        random = default_rng((drawing, clusters, edges))
        costs = drawn_costs(scene, clusters, edges, random=random)
        usual = at_random(costs, random)
        for way, method in WAYS.items():
            found[way].append(costs.score(method(costs))[0] / usual)
        if edges**clusters <= MOST_TRIED:
            found["best"].append(min(costs.score(held)[0] for held in every(costs)) / usual)
    return found


def matching_rows() -> list[str]:
    """Round times of matchings, as shares of random ones."""
    lines = [
        "| scene | clusters × edges | nearest | greedy | sum | bottleneck | best of all "
        "| drawings where bottleneck ≤ 0.8 |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for scene, sizes in SCENES:
        for clusters, edges in sizes:
            found = matchings(scene, clusters, edges)
            cells = [shown(found[way]) if found[way] else "–" for way in found]
            share = 100 * np.mean(np.array(found["bottleneck"]) <= 0.8)
            row = " | ".join(cells)
            lines.append(f"| {scene.name} | {clusters} × {edges} | {row} | {share:.0f} % |")
    return lines


def main() -> None:
    """Prints all tables."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    print(f"Mean divergence of clusters over that of random ones, {SEEDS} seeds:")
    print(*cluster_rows(), "", "By noised labels, judged by the true ones:", sep="\n")
    print(*noise_rows(), "", f"Matchings, {DRAWINGS} drawings of each scene; {SETTING}:", sep="\n")
    print(*matching_rows(), "", *time_rows(), sep="\n")


if __name__ == "__main__":
    main()
