"""ε of private rounds is the accountant's, and what its formulae say."""

import math

import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from lockstep_api.spec import Privacy
from lockstep_operator.core.privacy import epsilon_of, spent

ROUNDS = [(1.0, 1e-5, 1), (1.0, 1e-5, 10), (2.5, 1e-6, 100), (0.5, 1e-3, 3), (8.0, 1e-5, 1000)]


def normal(x: float) -> float:
    """The distribution function of the standard normal distribution."""
    return 0.5 * math.erfc(-x / math.sqrt(2))


def delta_of(epsilon: float, sigma: float) -> float:
    """δ of a Gaussian mechanism of sensitivity 1 (Balle, Wang 2018, theorem 8)."""
    half, far = 1 / (2 * sigma), epsilon * sigma
    return normal(half - far) - math.exp(epsilon) * normal(-half - far)


@pytest.mark.parametrize(("multiplier", "delta", "rounds"), ROUNDS)
def test_rounds_are_one_mechanism_of_less_noise(
    multiplier: float, delta: float, rounds: int
) -> None:
    epsilon = epsilon_of(multiplier, delta, rounds=rounds)
    assert delta_of(epsilon, multiplier / math.sqrt(rounds)) == pytest.approx(delta, rel=1e-6)


@pytest.mark.parametrize(("multiplier", "delta", "rounds"), ROUNDS)
def test_no_other_accountant_says_much_less_nor_much_more(
    multiplier: float, delta: float, rounds: int
) -> None:
    epsilon = epsilon_of(multiplier, delta, rounds=rounds)
    event = SelfComposedDpEvent(GaussianDpEvent(multiplier), rounds)
    by_losses = PLDAccountant().compose(event).get_epsilon(delta)
    assert epsilon == pytest.approx(by_losses, rel=1e-3)
    assert epsilon < RdpAccountant().compose(event).get_epsilon(delta) < 1.4 * epsilon


@pytest.mark.parametrize(
    ("noise", "epochs", "published"), [(1.3, 15, 1.19), (1.1, 60, 3.01), (0.7, 45, 7.10)]
)
def test_the_accountant_says_what_is_published(noise: float, epochs: int, published: float) -> None:
    # TensorFlow Privacy's tutorial on MNIST: batches of 256 of 60,000, by a conversion of 2017
    # (Mironov, proposition 3) than which the accountant's is up to a quarter tighter.
    step = PoissonSampledDpEvent(256 / 60_000, GaussianDpEvent(noise))
    accountant = RdpAccountant().compose(SelfComposedDpEvent(step, epochs * 60_000 // 256))
    assert 0.75 * published < accountant.get_epsilon(1e-5) < published


def test_more_rounds_cost_more_and_none_cost_nothing() -> None:
    told = [epsilon_of(1.0, 1e-5, rounds=rounds) for rounds in range(6)]
    assert told[0] == 0
    assert told == sorted(set(told))


def test_an_odd_job_has_a_figure() -> None:
    least = Privacy(clip_norm=1, noise_multiplier=0.01)
    most = Privacy(clip_norm=1, noise_multiplier=1e6, delta=0.1)
    assert math.isfinite(spent(least, clients=640_000, rounds=10**6))
    assert spent(most, clients=1, rounds=1) == 0


def test_delta_shrinks_with_the_number_of_clients_and_can_be_asked_for() -> None:
    privacy = Privacy(clip_norm=1, noise_multiplier=1)
    assert privacy.delta_of(1000) == pytest.approx(1000**-1.1)
    assert privacy.delta_of(1) == 0.1
    asked = Privacy(clip_norm=1, noise_multiplier=1, delta=1e-7)
    assert asked.delta_of(1000) == 1e-7
    assert spent(asked, clients=1000, rounds=2) > spent(privacy, clients=1000, rounds=2)
