"""What hides a client: equal weights, a bound on each update, noise of the stated deviation."""

import operator
import random
from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from lockstep_api.spec import Model, StrategyName, StrategySpec
from lockstep_workers.learning.bounding import distance
from lockstep_workers.learning.clipping import UNSEEN
from lockstep_workers.learning.privacy import Noise, by_chance, by_seed, clip, drawn_from
from lockstep_workers.learning.rollback import Judge
from lockstep_workers.learning.safeguards import NO_SAFEGUARDS, Safeguards
from lockstep_workers.learning.server import Server
from lockstep_workers.learning.strategies import build_strategy
from lockstep_workers.learning.strategy import MODEL, Contribution, Vector
from lockstep_workers.models import build_model

NORM, MULTIPLIER = 0.5, 2.0
CLIENTS = ("a", "b", "c", "d")
HELD = dict.fromkeys(CLIENTS, 10)
ONE = Contribution(10, 1)
Normals = Callable[[int], np.ndarray]


def none(count: int) -> np.ndarray:
    """Noise that is not there."""
    return np.zeros(count)


def server(
    normals: Normals = none, *, safeguards: Safeguards = NO_SAFEGUARDS, **strategy: object
) -> Server:
    """A server of a private job, at the start of a round of all its clients."""
    made = Server(
        build_strategy(StrategySpec.model_validate(strategy), momentum=0.0, private=True),
        build_model(Model(name="mlp"), seed=1),
        examples=HELD,
        noise=Noise(clip_norm=NORM, multiplier=MULTIPLIER, normals=normals),
        safeguards=safeguards,
    )
    made.begin(1, CLIENTS)
    return made


def moved(of: Server, length: float, *, seed: int = 0) -> Vector:
    """An update that is so far from the model."""
    model = of.state.vectors[MODEL]
    way = np.random.default_rng(seed).standard_normal(model.size)
    return (model + length * way / np.linalg.norm(way)).astype(np.float32)


def aggregated(of: Server) -> NDArray[np.float64]:
    """How far a round moves the model."""
    before = of.state.vectors[MODEL].copy()
    of.aggregate()
    return of.state.vectors[MODEL].astype(np.float64) - before


def test_a_long_update_counts_as_one_of_the_norm_in_its_direction() -> None:
    far, near = server(), server()
    far.add("a", moved(far, 100.0), contribution=ONE)
    near.add("a", moved(near, NORM), contribution=ONE)
    change = aggregated(far)
    assert np.linalg.norm(change) == pytest.approx(NORM, rel=1e-4)
    np.testing.assert_allclose(change, aggregated(near), atol=1e-6)


def test_a_short_update_stays_as_it_is() -> None:
    made = server()
    update = moved(made, 0.9 * NORM)
    kept = update.copy()
    made.add("a", update, contribution=ONE)
    np.testing.assert_array_equal(update, kept)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_an_update_of_no_use_moves_nothing_but_by_the_norm(value: float) -> None:
    made = server()
    update = moved(made, 0.1)
    update[3] = value
    made.add("a", update, contribution=ONE)
    assert np.linalg.norm(aggregated(made)) <= NORM * (1 + 1e-5)


def test_a_lie_about_examples_and_steps_changes_nothing() -> None:
    honest, lying = server(), server()
    for made, told in ((honest, ONE), (lying, Contribution(2**31 - 1, 1000))):
        made.add("a", moved(made, 0.3, seed=1), contribution=told)
        made.add("b", moved(made, 0.3, seed=2), contribution=ONE)
    np.testing.assert_array_equal(aggregated(honest), aggregated(lying))


def test_noise_has_the_stated_deviation_over_the_updates_that_came() -> None:
    made = server(by_seed(7))
    for client in CLIENTS[:3]:  # the fourth is lost: less is divided by, the noise is larger
        made.add(client, moved(made, 0.0), contribution=ONE)
    change, stated = aggregated(made), MULTIPLIER * NORM / 3
    assert change.size > 100_000
    assert change.std() == pytest.approx(stated, rel=0.01)
    assert abs(change.mean()) < 0.01 * stated


def test_noise_comes_before_the_server_moves_the_model() -> None:
    made = server(by_seed(7), name=StrategyName.FEDAVG, serverLearningRate=0.5)
    made.add("a", moved(made, 0.0), contribution=ONE)
    assert aggregated(made).std() == pytest.approx(0.5 * MULTIPLIER * NORM, rel=0.01)


def test_each_round_has_noise_of_its_own() -> None:
    made = server(by_seed(7))
    changes = []
    for number in (1, 2):
        made.begin(number, CLIENTS)
        made.add("a", moved(made, 0.0), contribution=ONE)
        changes.append(aggregated(made))
    assert abs(np.corrcoef(changes[0], changes[1])[0, 1]) < 0.02


def test_draws_are_normal() -> None:
    drawn = drawn_from(random.Random(3).randbytes)(200_001)
    assert len(drawn) == 200_001
    assert abs(drawn.mean()) < 0.01
    assert drawn.std() == pytest.approx(1.0, rel=0.01)
    assert np.mean(drawn**4) == pytest.approx(3.0, rel=0.05)
    for quantile, wanted in ((0.1587, -1.0), (0.9772, 2.0)):
        assert np.quantile(drawn, quantile) == pytest.approx(wanted, abs=0.02)


def test_the_rarest_bytes_give_numbers() -> None:
    for byte in (b"\0", b"\xff"):
        assert np.isfinite(drawn_from(partial(operator.mul, byte))(3)).all()


def test_nobody_repeats_what_chance_draws() -> None:
    assert not np.array_equal(by_chance(4), by_chance(4))


def test_a_bound_below_the_floats_of_a_model_is_kept() -> None:
    model = np.full(1000, 1e6, np.float32)
    update = np.full(1000, 2e6, np.float32)
    clip(update, model, norm=1e-4)
    assert distance(update, model) <= 1e-4


def test_nobody_of_a_private_job_is_a_suspect_and_nothing_is_told_of_an_update() -> None:
    of = server(safeguards=Safeguards(judge=Judge(5.0, 10)))
    told = [of.add(one, moved(of, 1e6 * (one == "a")), contribution=ONE) for one in CLIENTS]
    assert told == [UNSEEN] * len(CLIENTS)
    assert of.suspects() == {}
