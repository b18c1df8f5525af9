"""What one client of ten can do to the model by sending far too much, and what honest ones feel."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from torch import nn

from lockstep_api.orders import ClusterOrder, MemberOrder
from lockstep_workers.learning.clipping import (
    LEAST,
    STEPS,
    Limits,
    Reached,
    bounds_of,
    first_reach,
    next_reach,
)
from lockstep_workers.learning.cluster_averaging import ClusterAverage, limits_of
from lockstep_workers.learning.safeguards import NO_SAFEGUARDS, Safeguards
from lockstep_workers.learning.scaffold import scaffold
from lockstep_workers.learning.server import Server
from lockstep_workers.learning.strategies import fedavg
from lockstep_workers.learning.strategy import MODEL, Contribution, Strategy, Vector
from lockstep_workers.learning.sums import RoundSum
from tests.support.rounds import asked

N = 500
CLIENTS = tuple(f"d-{i}" for i in range(10))
KNOWN = Reached(distance=1.0, gradient=2.0, steps=4)
GUARDED = Safeguards(clip_norm=5.0, reached=KNOWN)
HUGE = 1e16


def server(strategy: Strategy | None = None, **how: object) -> Server:
    module = nn.Linear(N, 1, bias=False)
    nn.init.constant_(module.weight, 0.5)
    chosen = {"safeguards": GUARDED, "deterministic": True, **how}
    return Server(strategy or fedavg(), module, examples=dict.fromkeys(CLIENTS, 3), **chosen)  # type: ignore[arg-type]


def updates(now: Server, *, huge: Sequence[str] = ()) -> dict[str, Vector]:
    """Each about 1 away from the model, but for those that are huge."""
    rng = np.random.default_rng(5)
    found = {}
    for client in CLIENTS:
        step = rng.normal(size=N)
        update = now.state.vectors[MODEL] + step / np.linalg.norm(step)
        found[client] = (np.full(N, HUGE) if client in huge else update).astype(np.float32)
    return found


def play(now: Server, given: dict[str, Vector], *, number: int = 1, steps: int = 4) -> Vector:
    now.begin(number, CLIENTS)
    for client, update in given.items():
        now.add(client, update.copy(), contribution=Contribution(3, steps))
    now.aggregate()
    return now.state.vectors[MODEL].copy()


@pytest.mark.parametrize("exact", [True, False])
def test_one_client_of_ten_cannot_destroy_the_model_in_round_one(exact: bool) -> None:
    now = server(deterministic=exact)
    before = now.state.vectors[MODEL].copy()
    after = play(now, updates(now, huge=CLIENTS[:1]))
    honest = play(server(deterministic=exact), updates(now))
    assert np.linalg.norm(after - honest) <= (5.0 + 1.0) / 10 * 1.001, "its share of the bound"
    unbounded = server(safeguards=NO_SAFEGUARDS, deterministic=exact)
    assert np.linalg.norm(play(unbounded, updates(now, huge=CLIENTS[:1])) - before) > HUGE / 100


def test_no_order_of_arrival_changes_a_bit_of_a_clipped_round() -> None:
    given = updates(server(), huge=CLIENTS[:2])
    backwards = dict(reversed(given.items()))
    first, second = server(), server()
    np.testing.assert_array_equal(play(first, given), play(second, backwards))
    assert first.state.reach == second.state.reach


def test_an_edge_clips_as_the_cloud_pod_does_bit_for_bit() -> None:
    whole, tiered = server(), server()
    given = updates(whole, huge=CLIENTS[4:6])
    expected = play(whole, given)
    tiered.begin(1, CLIENTS)
    for members in (CLIENTS[:5], CLIENTS[5:]):
        order = ClusterOrder(
            round=1, cluster="c0", turn=1, bounds=dict(tiered.bounds),
            members=[MemberOrder(plan=asked(one), examples=3) for one in members],
        )  # fmt: skip
        limits = limits_of(order, fedavg(), vectors=tiered.broadcast(), momentum=0.0)
        edge = ClusterAverage(order, fedavg(), RoundSum(N, exact=True), 0.0, limits)
        found = {}
        for one in members:
            contribution = Contribution(3, 4)
            measured = edge.add(one, given[one].copy(), contribution=contribution)
            found[one] = replace(contribution, distances=measured.distances)
        tiered.add_part(edge.sum.part().sums, contributions=found)
    tiered.aggregate()
    np.testing.assert_array_equal(tiered.state.vectors[MODEL], expected)
    assert tiered.state.reach == whole.state.reach


def test_what_was_found_says_who_was_clipped_and_by_how_much() -> None:
    now = server()
    now.begin(1, CLIENTS)
    given = updates(now, huge=CLIENTS[:1])
    honest = now.add(CLIENTS[1], given[CLIENTS[1]], contribution=Contribution(3, 4))
    assert honest.distances == pytest.approx([1.0], rel=1e-4)
    assert honest.kept == ()
    huge = now.add(CLIENTS[0], given[CLIENTS[0]], contribution=Contribution(3, 4))
    assert huge.distances == pytest.approx([HUGE * N**0.5], rel=1e-4)
    assert huge.kept == pytest.approx([5.0 / (HUGE * N**0.5)], rel=1e-4)


def test_a_multiple_of_zero_clips_nothing() -> None:
    now = server(safeguards=replace(GUARDED, clip_norm=0.0))
    now.begin(1, CLIENTS)
    found = now.add(CLIENTS[0], np.full(N, HUGE, np.float32), contribution=Contribution(3, 4))
    assert found.kept == ()
    assert found.distances != (), "people see it all the same"


def test_gradients_have_a_bound_of_their_own() -> None:
    now = server(scaffold())
    now.begin(1, CLIENTS)
    model = updates(now)[CLIENTS[0]]
    both = np.concatenate([model, np.full(N, HUGE, np.float32)])
    found = now.add(CLIENTS[0], both, contribution=Contribution(3, 4))
    assert found.kept[0] == 1.0
    np.testing.assert_array_equal(both[:N], model)
    assert np.linalg.norm(both[N:]) == pytest.approx(5.0 * KNOWN.gradient, rel=1e-4)


def told(*distances: float, steps: Sequence[int] = ()) -> list[Contribution]:
    asked_for = steps or [4] * len(distances)
    return [
        Contribution(1, count, distances=(far,))
        for far, count in zip(distances, asked_for, strict=True)
    ]


def after(known: dict[str, float], given: list[Contribution]) -> float:
    return next_reach(known, given, uploads=[MODEL], momentum=0.0)[MODEL]


def test_a_minority_moves_the_next_bound_among_honest_distances_only() -> None:
    known = {MODEL: 1.0, STEPS: 4.0}
    honest = [0.9, 1.0, 1.1, 1.2, 1.3, 1.4]
    for lie in (0.0, 1e16):
        found = after(known, told(*honest, *[lie] * 4))
        assert min(honest) <= found <= max(honest)


def test_a_round_of_dishonest_clients_alone_moves_it_four_times() -> None:
    known = {MODEL: 1.0, STEPS: 4.0}
    assert after(known, told(1e16)) == 4.0
    assert after(known, told(0.0)) == 0.25
    assert after({MODEL: 4.0, STEPS: 4.0}, told(1.0, 1.0, 1.0)) == 1.0, "honest ones bring it back"


def test_who_does_more_steps_than_the_median_may_go_further() -> None:
    limits = Limits(uploads=(MODEL,), origins={}, bounds={MODEL: 5.0, STEPS: 4.0}, momentum=0.0)
    kept = {}
    for steps in (1, 4, 40, 10**6):
        vector = np.zeros(4, np.float32)
        vector[0] = 1e9
        limits.hold(vector, steps)
        kept[steps] = float(vector[0])
    assert kept == {1: 5.0, 4: 5.0, 40: 50.0, 10**6: 500.0}


def test_unequal_steps_are_compared_as_if_they_were_equal() -> None:
    """Distances that grow with steps say of the median client what it would say alone."""
    known = {MODEL: 1.0, STEPS: 4.0}
    found = next_reach(known, told(1.0, 1.0, 10.0, steps=[4, 4, 40]), uploads=[MODEL], momentum=0.0)
    assert found == {MODEL: 1.0, STEPS: 4.0}


def test_the_bound_of_gradients_never_falls_below_that_of_round_one() -> None:
    """Who joins late tells a whole gradient where others tell small changes."""
    uploads = [*scaffold().uploads]
    known = first_reach(KNOWN, uploads)
    for _ in range(5):
        given = [Contribution(1, 4, distances=(1.0, 0.001))] * 3
        known = next_reach(known, given, uploads=uploads, momentum=0.0)
    assert known[uploads[1]] == known[LEAST + uploads[1]] == KNOWN.gradient


def test_what_is_known_goes_from_round_to_round_and_survives_an_old_checkpoint() -> None:
    now = server()
    reaches = [now.state.reach]
    for number in (1, 2):
        play(now, updates(now), number=number)
        reaches.append(now.state.reach)
    assert all(later[MODEL] == pytest.approx(1.0, rel=1e-4) for _, later in pairwise(reaches))
    now.go_on_from(replace(now.state, reach={}))
    assert now.state.reach == reaches[-1]
    assert bounds_of({}, 5.0) == {}
