"""ε of private rounds is the accountant's, and what its formulae say."""

import math

import pytest
from dp_accounting import GaussianDpEvent, PoissonSampledDpEvent, SelfComposedDpEvent
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant

from lockstep_api.privacy import LedgerMark
from lockstep_api.spec import FederatedJobSpec, Privacy
from lockstep_operator.core.privacy import (
    MOST_ROUNDS,
    Counted,
    epsilon_of,
    ledger_of,
    most_rounds,
    newer_of,
    privacy_plan,
    privacy_state,
    rounds_within,
    spent,
)
from lockstep_operator.core.support import unplayable

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


def job(**privacy: object) -> FederatedJobSpec:
    """A private job of ten devices."""
    return FederatedJobSpec.model_validate(
        {
            "model": {"name": "mlp"},
            "data": {"name": "fashion-mnist"},
            "training": {"rounds": 9},
            "devices": [{"name": "d", "replicas": 10}],
            "privacy": {"clipNorm": 1, "noiseMultiplier": 2, **privacy},
        }
    )


def of(spec: FederatedJobSpec) -> Privacy:
    """What it asks for."""
    assert spec.privacy is not None
    return spec.privacy


@pytest.mark.parametrize("budget", [3.0, 8.0, 8.5, 200.0])
def test_the_budget_is_used_and_never_exceeded(budget: float) -> None:
    privacy = of(job(epsilonBudget=budget))
    most = most_rounds(privacy, clients=10)
    assert most is not None
    assert spent(privacy, clients=10, rounds=most) <= budget
    assert spent(privacy, clients=10, rounds=most + 1) > budget


def test_a_budget_that_is_one_round_allows_one_round() -> None:
    one = spent(of(job()), clients=10, rounds=1)
    assert most_rounds(of(job(epsilonBudget=one)), clients=10) == 1
    assert most_rounds(of(job(epsilonBudget=0.999 * one)), clients=10) == 0
    assert most_rounds(of(job()), clients=10) is None


def test_a_budget_without_an_end_is_found_soon() -> None:
    assert rounds_within(1e6, 0.1, budget=1e6) == MOST_ROUNDS


def test_a_budget_of_less_than_a_round_is_refused_with_figures() -> None:
    (said,) = unplayable(job(epsilonBudget=0.1))
    one = spent(of(job()), clients=10, rounds=1)
    assert said == (
        f"privacy.epsilonBudget 0.1 is less than one round costs (ε {one:.4g} at δ 0.079): "
        "use a larger noiseMultiplier than 2, or a larger budget"
    )
    assert unplayable(job(epsilonBudget=5)) == unplayable(job()) == []


def test_a_plan_says_what_was_spent_and_what_another_round_would_come_to() -> None:
    plan = privacy_plan(job(epsilonBudget=8), told=Counted(3), known=[Counted(3)])
    assert plan is not None
    told = [spent(of(job()), clients=10, rounds=rounds) for rounds in (3, 4)]
    assert [plan.epsilon, plan.epsilon_after] == told
    assert (plan.rounds, plan.least_rounds, plan.delta) == (3, 0, 10**-1.1)
    assert plan.most_rounds == most_rounds(of(job(epsilonBudget=8)), clients=10)
    open_job = job().model_copy(update={"privacy": None})
    assert privacy_plan(open_job, told=Counted(3), known=[Counted(3)]) is None


def test_a_cloud_pod_that_has_lost_its_account_counts_one_more_than_is_known() -> None:
    plan = privacy_plan(job(), told=Counted(0), known=[Counted(5)])
    assert plan is not None
    assert (plan.rounds, plan.least_rounds) == (6, 6)
    assert plan.epsilon == spent(of(job()), clients=10, rounds=6)


def least(told: Counted, *known: Counted) -> tuple[int, int]:
    """What all clients count as being in, and the ledger as having seen."""
    plan = privacy_plan(job(), told=told, known=known)
    assert plan is not None
    return plan.least_rounds, plan.least_models


def mark(models: int, name: str = "a") -> LedgerMark:
    return LedgerMark(ledger=name * 32, models=models)


def test_an_older_ledger_that_has_come_back_is_noticed_though_its_greatest_count_is_the_same() -> (
    None
):
    """One client had all its models before; those of others since then are not in it."""
    known = Counted(3, mark(9))
    assert least(Counted(3, mark(9)), known) == (0, 0)
    assert least(Counted(4, mark(10)), known) == (0, 0)
    assert least(Counted(3, mark(8)), known) == (4, 10)
    assert least(Counted(3, mark(8)), Counted(3), known) == (4, 10), "the status knows more"
    assert least(Counted(4, mark(10)), known) == (0, 0), "it has taken that in"


def test_a_volume_that_is_lost_in_round_1_counts_a_model() -> None:
    """Nobody has been in one when the round was planned, and some may be since."""
    known = Counted(0, mark(0))
    assert least(Counted(0, mark(0)), known) == (0, 0), "a cloud pod that was made anew"
    assert least(Counted(0, mark(0, "b")), known) == (1, 1)
    assert least(Counted(1, mark(1, "b")), known) == (0, 0), "it has taken that in"


def test_a_ledger_that_is_behind_is_not_taken_for_what_is_known() -> None:
    """Its cloud pod may ask twice before it hears that it is."""
    known = mark(5)
    for told in (mark(4), mark(0, "b"), mark(5, "b"), None):
        assert newer_of(known, told) == known
    for told in (mark(5), mark(6), mark(6, "b")):
        assert newer_of(known, told) == told
    assert newer_of(None, known) == known


def test_a_status_tells_which_ledger_it_knows() -> None:
    state = privacy_state(job(), Counted(3, mark(9)))
    assert ledger_of(state) == mark(9)
    assert ledger_of(privacy_state(job(), Counted(3))) is None
    assert ledger_of(None) is None


@pytest.mark.parametrize(
    ("mode", "clustering", "epsilon"),
    [
        ("federated", None, None),
        ("hierarchical", None, 2.0),
        ("hierarchical", {"method": "kl", "epsilon": 0.1}, 0.2),
        ("hierarchical", {"method": "random", "epsilon": 0.1}, None),
    ],
)
def test_labels_of_examples_are_another_unit_and_stand_beside(
    mode: str, clustering: dict[str, object] | None, epsilon: float | None
) -> None:
    edges = [] if mode == "federated" else [{"name": "e"}]
    told = {"mode": mode, "edges": edges, "clustering": clustering}
    spec = FederatedJobSpec.model_validate(job().model_dump(by_alias=True) | told)
    state = privacy_state(spec, Counted(4))
    assert state is not None
    assert (state.label_epsilon, state.epsilon) == (epsilon, spent(of(job()), clients=10, rounds=4))
