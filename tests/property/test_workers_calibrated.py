"""Calibrated training on losses whose optimum is known: unequal steps do not move where it ends."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from lockstep_api.spec import CalibrationGradient, StrategyName, StrategySpec
from lockstep_workers.learning.calibrated import Calibration, calibrated
from lockstep_workers.learning.latest import MEAN
from lockstep_workers.learning.strategies import build_strategy, fedavg
from lockstep_workers.learning.strategy import MODEL, ClientMemory, LocalPlan, LocalResult, Strategy
from tests.support.quadratics import Quadratic, QuadraticJob, true_optimum
from tests.support.tasks import no_probe

KINDS = list(CalibrationGradient)
SLOW_AND_FAST = {
    "slow": Quadratic((1.0, 0.5), (2.0, -1.0), steps=2, examples=10),
    "middle": Quadratic((0.6, 1.4), (-1.0, 0.5), steps=6, examples=30),
    "fast": Quadratic((1.5, 1.0), (-2.0, 2.0), steps=20, examples=10),
}
values = st.floats(-2.0, 2.0, width=16)
clients = st.builds(
    Quadratic,
    st.tuples(*[st.floats(0.5, 2.0, width=16)] * 2), st.tuples(values, values),
    steps=st.integers(1, 20), examples=st.integers(1, 10),
)  # fmt: skip
fleets = st.lists(clients, min_size=2, max_size=4).map(
    lambda made: {f"c-{i}": one for i, one in enumerate(made)}
)


def of(kind: CalibrationGradient = CalibrationGradient.AVERAGE, **how: float) -> Strategy:
    """The method with this gradient."""
    count = 3 if kind is CalibrationGradient.MINIBATCHES else None
    return calibrated(Calibration(gradient=kind, minibatches=count, **how))


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(fleet=fleets, deviation=st.sampled_from([-0.5, 0.0, 0.1, 0.5]))
def test_the_optimum_of_all_is_where_it_stays(
    kind: CalibrationGradient, fleet: dict[str, Quadratic], deviation: float
) -> None:
    """With the gradients of clients that are held there for a while."""
    job = QuadraticJob(of(kind, deviation_weight=deviation), fleet, learning_rate=0.01)
    optimum = true_optimum(fleet)
    for _ in range(25):
        job.go_to(optimum)
        job.play()
    np.testing.assert_allclose(job.play(5), optimum, atol=2e-4)
    np.testing.assert_allclose(job.server.state.vectors[MEAN], 0, atol=2e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_it_gets_there_from_elsewhere(kind: CalibrationGradient, momentum: float) -> None:
    job = QuadraticJob(of(kind), SLOW_AND_FAST, learning_rate=0.02, momentum=momentum)
    np.testing.assert_allclose(job.play(200), true_optimum(SLOW_AND_FAST), atol=1e-3)


def test_the_mean_of_the_models_ends_somewhere_else() -> None:
    """FedAvg on the same clients, however long: the fast one pulls."""
    job = QuadraticJob(fedavg(), SLOW_AND_FAST, learning_rate=0.02)
    end = job.play(200)
    assert np.abs(job.play(20) - end).max() < 1e-5, "it has ended"
    assert np.abs(end - true_optimum(SLOW_AND_FAST)).max() > 0.3


def test_it_gets_there_where_few_take_part_in_a_round() -> None:
    """One or two of three; the mean of gradients is over all that ever did."""
    drawn = np.random.default_rng(0)
    job = QuadraticJob(of(), SLOW_AND_FAST, learning_rate=0.02)
    for _ in range(500):
        count = int(drawn.integers(1, 3))
        job.play(participants=[str(c) for c in drawn.choice(list(SLOW_AND_FAST), count, False)])
    np.testing.assert_allclose(job.model, true_optimum(SLOW_AND_FAST), atol=1e-3)


@settings(max_examples=30)
@given(fleet=fleets, order=st.randoms(use_true_random=False))
def test_the_order_of_clients_is_no_matter(fleet: dict[str, Quadratic], order: Any) -> None:
    names = list(fleet)
    order.shuffle(names)
    jobs = [QuadraticJob(of(), fleet, learning_rate=0.02) for _ in range(2)]
    for _ in range(4):
        np.testing.assert_allclose(jobs[0].play(), jobs[1].play(participants=names), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20)
@given(client=clients)
def test_one_client_does_plain_sgd(kind: CalibrationGradient, client: Quadratic) -> None:
    alone = {"only": client}
    jobs = [QuadraticJob(s, alone, learning_rate=0.02, momentum=0.3) for s in (of(kind), fedavg())]
    for _ in range(5):
        np.testing.assert_allclose(jobs[0].play(), jobs[1].play(), atol=1e-5)


@settings(max_examples=30)
@given(client=clients, sizes=st.lists(st.integers(1, 10), min_size=2, max_size=4))
def test_clients_that_are_equal_train_as_with_fedavg(client: Quadratic, sizes: list[int]) -> None:
    """Equal data and equal steps: nobody's gradient differs from the mean."""
    fleet = {
        f"c-{i}": Quadratic(client.curvature, client.optimum, client.steps, size)
        for i, size in enumerate(sizes)
    }
    jobs = [QuadraticJob(s, fleet, learning_rate=0.02) for s in (of(), fedavg())]
    for _ in range(5):
        np.testing.assert_allclose(jobs[0].play(), jobs[1].play(), atol=1e-5)


def test_a_memory_that_is_lost_costs_rounds_and_not_the_optimum() -> None:
    job = QuadraticJob(of(), SLOW_AND_FAST, learning_rate=0.02)
    job.play(50)
    for name in ("fast", "slow"):
        del job.memories[name]
        job.play()
    np.testing.assert_allclose(job.play(200), true_optimum(SLOW_AND_FAST), atol=1e-3)


def test_an_update_that_is_lost_changes_nothing_of_its_client() -> None:
    """It trains, and nobody hears of it: its next update is beside its last that counted."""
    jobs = [QuadraticJob(of(), SLOW_AND_FAST, learning_rate=0.02) for _ in range(2)]
    for job, loses in zip(jobs, (True, False), strict=True):
        job.play(3)
        job.begin()
        if loses:
            job.train("fast")
        job.end([job.train(name) for name in ("slow", "middle")])
        job.play(3)
    np.testing.assert_array_equal(jobs[0].model, jobs[1].model)
    one, other = (job.server.state.vectors[MEAN] for job in jobs)
    np.testing.assert_array_equal(one, other)


# -- one client's part -------------------------------------------------------------------------

MEMORY = ClientMemory(
    {"gradient": torch.tensor([1.0, 0.0]), "end": torch.tensor([2.0, 2.0])}, {"steps": 5.0}
)


def calibration(strategy: Strategy, *, steps: int = 5, base_round: int = 6, **more: Any) -> Tensor:
    """What is added to a gradient in round 7, at a model and a mean gradient of its own."""
    received = {MODEL: torch.tensor([3.0, 2.0]), MEAN: torch.tensor([5.0, 1.0])}
    plan = LocalPlan(
        7, steps, 0.1, more.pop("momentum", 0.0), base_round=base_round,
        numbers={"gradients_since": 0.0},
    )  # fmt: skip
    memory = more.pop("memory", MEMORY)
    part = strategy.begin(received, plan=plan, memory=memory, probe=lambda _n=None: torch.zeros(2))
    gradient = torch.zeros(2)
    assert part.correct is not None
    part.correct(received[MODEL], gradient)
    return gradient


def test_a_client_is_calibrated_as_the_patent_says() -> None:
    """ṽ - v, and λ / (η K) of the way from its end to the model."""
    expected = torch.tensor([4.0, 1.0]) + 0.1 / (0.1 * 5) * torch.tensor([1.0, 0.0])
    torch.testing.assert_close(calibration(of()), expected)
    torch.testing.assert_close(calibration(of(deviation_weight=0.0)), torch.tensor([4.0, 1.0]))
    half = torch.tensor([2.0, 0.5])
    torch.testing.assert_close(calibration(of(deviation_weight=0.0, weight=0.5)), half)


@pytest.mark.parametrize(("steps", "share"), [(5, 1.0), (2, 1.0), (50, 0.1)])
def test_an_average_counts_for_as_many_steps_as_it_was_measured_over(
    steps: int, share: float
) -> None:
    got = calibration(of(deviation_weight=0.0), steps=steps)
    torch.testing.assert_close(got, torch.tensor([4.0, 1.0]) * share)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "average"])
def test_a_gradient_at_the_received_model_counts_for_any_number(kind: CalibrationGradient) -> None:
    got = calibration(of(kind, deviation_weight=0.0), steps=50)
    torch.testing.assert_close(got, torch.tensor([4.0, 1.0]))


def test_after_an_absence_there_is_no_deviation() -> None:
    """Where it ended two rounds ago says nothing of how far it was from the others."""
    torch.testing.assert_close(calibration(of(), base_round=5), torch.tensor([4.0, 1.0]))


def test_momentum_moves_a_client_further_for_the_same_gradient() -> None:
    expected = torch.tensor([4.0, 1.0]) + 0.1 * 0.5 / (0.1 * 5) * torch.tensor([1.0, 0.0])
    torch.testing.assert_close(calibration(of(), momentum=0.5), expected)


def test_a_client_without_memory_is_not_calibrated() -> None:
    got = calibration(of(), memory=ClientMemory())
    assert torch.equal(got, torch.zeros(2))


def raw(kind: CalibrationGradient, *gradients: float) -> float:
    """The gradient that stands for a client that had these, each corrected and with momentum."""
    strategy, probed = of(kind, deviation_weight=0.0), torch.tensor([9.0])
    plan = LocalPlan(1, len(gradients), 0.1, 0.9, numbers={"gradients_since": 0.0})
    received = {MODEL: torch.zeros(1), MEAN: torch.tensor([100.0])}
    memory = ClientMemory({"gradient": torch.tensor([1.0])}, {"steps": 1.0})
    probe = no_probe if kind in ("average", "first") else lambda _n=None: probed
    part = strategy.begin(received, plan=plan, memory=memory, probe=probe)
    assert part.correct is not None
    for value in gradients:
        gradient = torch.tensor([value])
        part.correct(received[MODEL], gradient)
        assert gradient.item() > value, "it was corrected"
    _, kept = part.finish(LocalResult(torch.zeros(1), len(gradients), 1))
    assert kept.numbers == {"steps": len(gradients)}
    return kept.vectors["gradient"].item()


@pytest.mark.parametrize(
    ("kind", "value"), [("average", 4.0), ("first", 2.0), ("minibatches", 9.0), ("full", 9.0)]
)
def test_what_stands_for_a_client_is_made_of_raw_gradients(kind: str, value: float) -> None:
    """Neither the correction nor momentum is in it."""
    assert raw(CalibrationGradient(kind), 2.0, 3.0, 7.0) == pytest.approx(value)


def test_a_probe_is_of_as_many_minibatches_as_the_job_says() -> None:
    spec = StrategySpec(name=StrategyName.CALIBRATED, gradient="minibatches", minibatches=12)
    asked: list[int | None] = []

    def probe(minibatches: int | None = None) -> Tensor:
        asked.append(minibatches)
        return torch.zeros(1)

    received = {MODEL: torch.zeros(1), MEAN: torch.zeros(1)}
    plan = LocalPlan(1, 1, 0.1, 0.0)
    build_strategy(spec, momentum=0.0).begin(
        received, plan=plan, memory=ClientMemory(), probe=probe
    )
    assert asked == [12]


def test_without_a_deviation_term_a_client_does_not_remember_where_it_ended() -> None:
    spec = StrategySpec(name=StrategyName.CALIBRATED)
    assert build_strategy(spec, momentum=0.0).remembers == ("gradient", "end")
    none = spec.model_copy(update={"deviation_weight": 0.0})
    assert build_strategy(none, momentum=0.0).remembers == ("gradient",)
