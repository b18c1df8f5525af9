"""Where strategies end, and what they have in common, on clients with quadratic losses."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lockstep_workers.learning.fedagrac import fedagrac
from lockstep_workers.learning.latest import MEAN
from lockstep_workers.learning.normalised import with_normalised_steps
from lockstep_workers.learning.scaffold import OWN, SHARE, scaffold
from lockstep_workers.learning.server_optimizer import (
    Adaptive,
    with_adaptive_server,
    with_server_optimizer,
)
from lockstep_workers.learning.strategies import fedavg, with_proximal
from lockstep_workers.learning.strategy import Strategy
from tests.support.quadratics import Quadratic, QuadraticJob, true_optimum

Clients = dict[str, Quadratic]
DIMENSIONS = 3
RATE = 0.04

METHODS: dict[str, Callable[[float], Strategy]] = {
    "fedavg": lambda _: fedavg(),
    "fednova": lambda momentum: with_normalised_steps(fedavg(), momentum=momentum),
    "scaffold": lambda _: scaffold(),
    "scaffold-I": lambda _: scaffold(at_start=True),
    "fedagrac": lambda _: fedagrac(),
    "fedagrac-1": lambda _: fedagrac(weight=1.0),
}
SERVERS: dict[str, Callable[[Strategy], Strategy]] = {
    "server-momentum": lambda base: with_server_optimizer(base, learning_rate=0.5, momentum=0.5),
    "fedadam": lambda base: with_adaptive_server(base, Adaptive()),
    "fedyogi": lambda base: with_adaptive_server(base, Adaptive(yogi=True)),
}
EVERY = [*METHODS, "fedprox", *SERVERS]


def method(name: str, momentum: float = 0.0) -> Strategy:
    """A strategy by its name."""
    if name in SERVERS:
        return SERVERS[name](scaffold())
    return with_proximal(fedavg(), 0.1) if name == "fedprox" else METHODS[name](momentum)


def clients(
    *, least_steps: int = 3, equal_steps: bool = False, equal_curvature: bool = False
) -> st.SearchStrategy[Clients]:
    """Two to four clients, with at most 12 steps a round."""
    curvature = st.tuples(*[st.floats(0.5, 1.5, width=32)] * DIMENSIONS)
    optimum = st.tuples(*[st.floats(-3, 3, width=32)] * DIMENSIONS)
    steps = st.integers(least_steps, 12)

    def named(drawn: list[Quadratic]) -> Clients:
        return {f"c-{index}": one for index, one in enumerate(drawn)}

    def alike(common: tuple[int, tuple[float, ...]]) -> st.SearchStrategy[Clients]:
        k = st.just(common[0]) if equal_steps else steps
        a = st.just(common[1]) if equal_curvature else curvature
        one = st.builds(Quadratic, a, optimum, k, st.integers(1, 3))
        return st.lists(one, min_size=2, max_size=4).map(named)

    return st.tuples(steps, curvature).flatmap(alike)


OPPOSED: Clients = {
    "slow": Quadratic((1.0,) * 3, (1.0, -1.0, 2.0), steps=1),
    "fast": Quadratic((1.0,) * 3, (-1.0, 1.0, -2.0), steps=12),
}
"""The optimum is zero, but the fast client pulls towards its own."""


@pytest.mark.parametrize("name", ["scaffold", "scaffold-I", "fedagrac-1", "server-momentum"])
@given(those=clients())
@settings(max_examples=10, deadline=None)
def test_unequal_steps_end_at_the_true_optimum(name: str, those: Clients) -> None:
    job = QuadraticJob(method(name), those, RATE)
    np.testing.assert_allclose(job.play(200), true_optimum(those), atol=2e-3)
    job.go_to(true_optimum(those))
    np.testing.assert_allclose(job.play(3), true_optimum(those), atol=2e-3)


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "fedagrac"])
def test_others_end_far_from_it(name: str) -> None:
    job = QuadraticJob(method(name), OPPOSED, RATE)
    ended = job.play(200)
    assert np.abs(ended - true_optimum(OPPOSED)).max() > 1
    assert np.abs(QuadraticJob(scaffold(), OPPOSED, RATE).play(200)).max() < 1e-3


@given(those=clients(least_steps=1))
@settings(max_examples=40, deadline=None)
def test_fednova_leaves_the_true_optimum_by_the_curvature_of_its_steps_alone(
    those: Clients,
) -> None:
    """(1 − (1 − ηa)ᴷ)/(ηK) is a − ηa²(K − 1)/2 + …: as η falls, all that is left is a."""
    rate, best = 2e-3, true_optimum(those)
    job = QuadraticJob(method("fednova"), those, rate)
    job.go_to(best)
    held = sum(one.examples for one in those.values())
    steps = sum(one.examples * one.steps for one in those.values()) / held
    moved = np.abs(job.play() - best).max() / (rate * steps)
    spread = max(np.abs(np.array(one.optimum) - best).max() for one in those.values())
    assert moved <= rate * 1.5**2 * 12 / 2 * spread + 1e-3


def test_fedavg_leaves_it_at_any_rate() -> None:
    for rate in (2e-3, 2e-4):
        job = QuadraticJob(fedavg(), OPPOSED, rate)
        job.go_to(true_optimum(OPPOSED))
        assert np.abs(job.play()).max() / rate > 5  # half of 12 − 1 steps of the fast one


def test_fednova_ends_nearer_than_fedavg_and_at_the_optimum_for_small_steps() -> None:
    far = [
        np.abs(QuadraticJob(method("fednova"), OPPOSED, rate).play(rounds)).max()
        for rate, rounds in ((0.04, 200), (0.004, 1500))
    ]
    assert far[0] < 0.5
    assert far[1] < far[0] / 5


@pytest.mark.parametrize("name", EVERY)
@given(those=clients(), seed=st.integers(0, 100))
@settings(max_examples=10, deadline=None)
def test_the_order_of_clients_does_not_matter(name: str, those: Clients, seed: int) -> None:
    rng, names = np.random.default_rng(seed), [*those]
    one, other = (QuadraticJob(method(name), those, RATE) for _ in range(2))
    for _ in range(3):
        one.play(1, names)
        other.play(1, rng.permutation(names).tolist())
    np.testing.assert_allclose(one.model, other.model, atol=1e-4)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("name", [name for name in METHODS if not name.startswith("fedagrac")])
@given(those=clients())
@settings(max_examples=10, deadline=None)
def test_one_client_is_plain_sgd(name: str, momentum: float, those: Clients) -> None:
    only = those["c-0"]
    job = QuadraticJob(method(name, momentum), {"only": only}, RATE, momentum)
    np.testing.assert_allclose(job.play(4), sgd(only, rounds=4, momentum=momentum), atol=1e-4)


@pytest.mark.parametrize("name", ["fedagrac", "fedagrac-1"])
@given(those=clients())
@settings(max_examples=10, deadline=None)
def test_one_client_of_fedagrac_is_plain_sgd(name: str, those: Clients) -> None:
    job = QuadraticJob(method(name), {"only": those["c-0"]}, RATE)
    np.testing.assert_allclose(job.play(4), sgd(those["c-0"], rounds=4), atol=1e-4)


def sgd(client: Quadratic, *, rounds: int, momentum: float = 0.0) -> np.ndarray:
    """SGD whose momentum begins anew in each round, in float64."""
    x, a, b = np.zeros(DIMENSIONS), np.array(client.curvature), np.array(client.optimum)
    for _ in range(rounds):
        velocity = np.zeros(DIMENSIONS)
        for _ in range(client.steps):
            velocity = momentum * velocity + a * (x - b)
            x = x - RATE * velocity
    return x


@pytest.mark.parametrize("name", [name for name in METHODS if name != "fedavg"])
@given(those=clients(equal_steps=True, equal_curvature=True))
@settings(max_examples=10, deadline=None)
def test_equal_steps_and_curvature_make_it_fedavg(name: str, those: Clients) -> None:
    """Corrections cancel out in the mean where each client's steps are the same linear map."""
    job, plain = (QuadraticJob(one, those, RATE) for one in (method(name), fedavg()))
    for _ in range(5):
        np.testing.assert_allclose(job.play(), plain.play(), atol=1e-4)


def control(job: QuadraticJob) -> tuple[np.ndarray, np.ndarray]:
    """(what c is at the server, what clients remember of it)."""
    held, state = sum(one.examples for one in job.clients.values()), job.server.state
    remembered = np.zeros(DIMENSIONS)
    for name, memory in job.memories.items():
        remembered += job.clients[name].examples / held * memory.vectors[OWN].numpy()
    return state.vectors[MEAN] * state.numbers[SHARE], remembered


@given(those=clients(), data=st.data())
@settings(max_examples=30, deadline=None)
def test_the_control_variate_is_the_mean_of_what_clients_remember(
    those: Clients, data: st.DataObject
) -> None:
    """Whoever takes part, and whatever is trained but lost, late or refused."""
    job = QuadraticJob(scaffold(), those, RATE)
    some = st.lists(st.sampled_from([*those]), min_size=1, unique=True)
    for _ in range(data.draw(st.integers(1, 5))):
        chosen = data.draw(some)
        job.begin(chosen)
        updates = [job.train(name) for name in chosen]
        job.end(updates[: data.draw(st.integers(1, len(updates)))])
        np.testing.assert_allclose(*control(job), atol=1e-4)


@given(those=clients(), data=st.data())
@settings(max_examples=20, deadline=None)
def test_a_lost_control_variate_is_forgotten_once_everybody_was_there(
    those: Clients, data: st.DataObject
) -> None:
    job = QuadraticJob(scaffold(), those, RATE)
    some = st.lists(st.sampled_from([*those]), min_size=1, unique=True)
    for _ in range(data.draw(st.integers(1, 4))):
        job.play(1, data.draw(some))
        for name in data.draw(some):
            job.memories.pop(name, None)
    job.play(2)
    np.testing.assert_allclose(*control(job), atol=1e-4)
    np.testing.assert_allclose(job.play(200), true_optimum(those), atol=2e-3)
