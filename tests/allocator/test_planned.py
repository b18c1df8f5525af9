"""Steps and frequencies that are chosen together: against every whole plan, and what must hold."""

from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lockstep_allocator import planned
from lockstep_allocator.devices import Array, Devices, energy_curve, stack_curves
from lockstep_allocator.equalize import Equalized, equalize
from lockstep_allocator.planned import Planned, Wish, plan_steps
from lockstep_allocator.scenarios import generic_phones
from lockstep_api.energy import EnergyModel
from tests.allocator.fleets import cost_of


@dataclass(frozen=True)
class Case:
    """What is asked of the rule."""

    devices: Devices
    """Work is that of a step."""
    upload_s: Array
    wish: Wish

    def plan(self) -> Planned:
        return plan_steps(self.devices, self.upload_s, wish=self.wish)

    def costs(self, plans: Array) -> Array:
        """(C,) of whole plans (C, N) at the equaliser's frequencies."""
        each = self.devices.rows(np.zeros(len(plans), np.int64))
        each = replace(each, work=each.work * plans)
        uploads = np.broadcast_to(self.upload_s, plans.shape)
        even = equalize(each, uploads)
        rounds = 1 + self.wish.half_steps / (plans @ self.wish.share)
        return rounds * cost_of(each, even.finish_s[:, 0], even.compute_s, uploads)

    def every(self, most: int) -> Array:
        """All whole plans within the bounds."""
        least, ratio = self.wish.least, self.wish.ratio
        every = product(range(least, most + 1), repeat=self.devices.shape[1])
        return np.array([plan for plan in every if max(plan) <= ratio * min(plan)], float)

    def weighted(self, energy_weight: float) -> "Case":
        return replace(self, devices=replace(self.devices, weight=np.array([[energy_weight]])))

    def finely(self, parts: int) -> "Case":
        """The same with steps that are parts of a step."""
        devices = replace(self.devices, work=self.devices.work / parts)
        wish = self.wish
        fine = replace(wish, half_steps=wish.half_steps * parts, least=wish.least * parts)
        return Case(devices, self.upload_s, fine)


def drawn(seed: int, count: int) -> Case:
    """Devices of all kinds: κ and tables, idle and transmission power, speeds 10 times apart."""
    random = np.random.default_rng(seed)
    if random.random() < 0.5:
        phones = [generic_phones()[i] for i in random.integers(24, size=count)]
        models = [(phone.energy, phone.min_ghz, phone.max_ghz) for phone in phones]
    else:
        kappas = 2e-28 * random.choice([1, 3], count)
        tops = np.exp(random.uniform(np.log(0.3), np.log(3), count))
        models = [
            (EnergyModel(float(kappa), (), 0.0), 0.1, float(top))
            for kappa, top in zip(kappas, tops, strict=True)
        ]
    curves = [energy_curve(model, min_ghz=low, max_ghz=high) for model, low, high in models]
    alpha, beta = stack_curves(curves)
    devices = Devices(
        work=np.exp(random.uniform(np.log(0.05), np.log(0.5), (1, count))),
        upload=np.ones((1, count)),
        min_ghz=np.array([[curve.efficient_ghz for curve in curves]]),
        max_ghz=np.array([[high for _, _, high in models]]),
        kappa=np.array([[curve.kappa for curve in curves]]),
        alpha=alpha[None],
        beta=beta[None],
        idle_watts=random.choice([0, 0.3], (1, count)),
        transmit_watts=random.choice([0, 1.0], (1, count)),
        weight=np.exp(random.uniform(np.log(0.01), np.log(10), (1, 1))),
    )
    wish = Wish(
        share=random.dirichlet(np.full(count, 2.0)),
        half_steps=float(random.choice([2, 8, 15, 38])),
        least=int(random.choice([1, 2, 4])),
        ratio=float(random.choice([1, 1.5, 3, 20])),
    )
    return Case(devices, random.uniform(0.05, 2, (1, count)), wish)


cases = st.builds(drawn, st.integers(0, 2**31), st.integers(1, 12))


@given(case=st.builds(drawn, st.integers(0, 2**31), st.integers(1, 3)))
@example(case=drawn(2**31, 3))  # few steps: rounding alone would cost 0.8 %
@settings(deadline=None, max_examples=8)
def test_no_whole_plan_is_cheaper_by_half_a_hundredth(case: Case) -> None:
    """Nor does a whole plan cost less than the bound of plans that need not be whole."""
    plan = case.plan()
    every = case.costs(case.every(20))
    assert plan.cost <= every.min() * 1.005
    assert every.min() >= plan.bound * (1 - 1e-3)


@given(case=cases)
@settings(deadline=None, max_examples=8)
def test_plans_keep_to_their_bounds_and_are_what_they_say(case: Case) -> None:
    plan, devices = case.plan(), case.devices
    assert plan.steps.min() >= case.wish.least
    assert plan.steps.max() <= case.wish.ratio * plan.steps.min()
    assert (plan.ghz >= devices.min_ghz[0] * (1 - 1e-9)).all()
    assert (plan.ghz <= devices.max_ghz[0] * (1 + 1e-9)).all()
    compute_s = devices.work * plan.steps / plan.ghz
    assert (compute_s + case.upload_s).max() == pytest.approx(plan.finish_s)
    each = replace(devices, work=devices.work * plan.steps)
    rounds = 1 + case.wish.half_steps / float(plan.steps @ case.wish.share)
    cost = cost_of(each, np.array([plan.finish_s]), compute_s, case.upload_s)[0]
    assert plan.cost == pytest.approx(rounds * cost)


def moved(plan: Array, wish: Wish) -> Array:
    """Plans beside one, within its bounds: one device, who has fewest and most, and all."""
    apart = (*np.eye(len(plan)), plan == plan.min(), plan == plan.max(), np.ones(len(plan)))
    ends = (plan == plan.min()) | (plan >= plan.max() - wish.ratio)
    every = [plan * (1 + by * who) for who in (*apart, ends) for by in (-0.01, 0.01)]
    lifted = [np.maximum(np.round(one), wish.least) for one in every]
    return np.array([np.minimum(one, np.floor(wish.ratio * one.min())) for one in lifted])


@given(case=cases)
@settings(deadline=None, max_examples=8)
def test_steps_that_are_nearly_continuous_are_the_best_around(case: Case) -> None:
    fine = case.finely(500)
    plan = fine.plan()
    beside = fine.costs(moved(plan.steps.astype(float), fine.wish))
    assert beside.min() >= plan.cost * (1 - 1e-4)
    assert plan.cost == pytest.approx(plan.bound, rel=2e-3)
    assert case.plan().bound == pytest.approx(plan.bound, rel=2e-3)


def test_steps_that_are_many_are_not_walked_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """500 times finer steps take no more looks than a few."""
    looks: list[int] = []

    def counted(devices: Devices, upload_s: Array) -> Equalized:
        looks.append(len(upload_s))
        assert len(looks) < 100
        return equalize(devices, upload_s)

    monkeypatch.setattr(planned, "equalize", counted)
    plan = drawn(1, 8).finely(500).plan()
    assert plan.steps.max() > 10_000
    assert looks


@given(case=cases)
@settings(deadline=None, max_examples=8)
def test_equal_steps_at_equalised_clocks_never_cost_less(case: Case) -> None:
    count = case.devices.shape[1]
    equal = np.arange(case.wish.least, 150.0)[:, None].repeat(count, axis=1)
    assert case.plan().cost <= case.costs(equal).min() * (1 + 1e-9)


@given(case=cases)
@settings(deadline=None, max_examples=8)
def test_a_dearer_joule_never_makes_the_job_take_more_of_them(case: Case) -> None:
    """Rounds times joules fall and rounds times seconds rise, but for the rounding of steps."""
    had: tuple[float, float] | None = None
    for energy_weight in (0.03, 0.3, 3.0):
        plan = case.weighted(energy_weight).plan()
        each = replace(case.devices, work=case.devices.work * plan.steps)
        rounds = 1 + case.wish.half_steps / float(plan.steps @ case.wish.share)
        joules = each.energy(
            np.array([plan.finish_s]), each.work / plan.ghz, upload_s=case.upload_s
        )[0]
        job = rounds * plan.finish_s, rounds * float(joules)
        if had is not None:
            assert job[0] >= had[0] * 0.9
            assert job[1] <= had[1] * 1.1
        had = job


@given(case=cases, seed=st.integers(0, 2**31))
@settings(deadline=None, max_examples=8)
def test_the_order_of_devices_does_not_matter(case: Case, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(case.devices.shape[1])
    names = ("weight",)
    moved = {
        name: getattr(case.devices, name)[:, order]
        for name in Devices.__dataclass_fields__
        if name not in names
    }
    devices = replace(case.devices, **moved)
    wish = replace(case.wish, share=case.wish.share[order])
    plan, other = case.plan(), plan_steps(devices, case.upload_s[:, order], wish=wish)
    assert plan.steps[order].tolist() == other.steps.tolist()
    assert plan.ghz[order] == pytest.approx(other.ghz)


def alike(count: int, *, weight: float = 0.3, top: Array | None = None) -> Case:
    """Devices of one kind, but for their highest frequency."""
    ones = np.ones((1, count))
    devices = Devices(
        work=0.3 * ones,
        upload=ones,
        min_ghz=0.1 * ones,
        max_ghz=2 * ones if top is None else top[None],
        kappa=0.2 * ones,
        alpha=np.zeros((1, count, 0)),
        beta=np.zeros((1, count, 0)),
        idle_watts=0 * ones,
        transmit_watts=0 * ones,
        weight=np.array([[weight]]),
    )
    wish = Wish(share=np.ones(count), half_steps=15.0, least=2, ratio=20.0)
    return Case(devices, 0.5 * ones, wish)


@pytest.mark.parametrize("count", [1, 7])
def test_devices_that_are_alike_get_the_same(count: int) -> None:
    plan = alike(count).plan()
    assert len(set(plan.steps)) == len(set(plan.ghz)) == 1


def test_there_is_one_efficient_clock_and_slow_devices_run_at_their_maximum() -> None:
    """Calibrated frequency and steps: fast devices do more steps in the same time."""
    top = np.geomspace(0.3, 3, 10)
    case = alike(10, weight=0.3, top=top)
    plan = case.plan()
    clock = plan.ghz[-3:].mean()
    assert plan.ghz[-3:] == pytest.approx(np.full(3, clock), rel=0.08)  # whole steps
    slow = top < 0.7 * clock
    assert slow.sum() >= 3
    assert (plan.ghz[slow] > 0.75 * top[slow]).all()  # what rounding down left is saved
    assert plan.steps[-1] >= 3 * plan.steps[0]


def test_a_device_whose_frequency_is_given_keeps_it_and_gets_steps_for_the_time() -> None:
    case = alike(4)
    given = np.array([[2.0, 2.0, 0.2, 2.0]])
    low = np.where(given < 1, given, case.devices.min_ghz)
    held = replace(case, devices=replace(case.devices, min_ghz=low, max_ghz=given))
    plan = held.plan()
    assert plan.ghz[2] == pytest.approx(0.2)
    assert plan.steps[2] < plan.steps[0]


def test_energy_that_costs_nothing_is_spent() -> None:
    top = np.geomspace(0.3, 3, 6)
    plan = alike(6, weight=0.0, top=top).plan()
    steps = top * (plan.finish_s - 0.5) / 0.3
    assert (plan.steps >= np.floor(steps + 1e-9)).all()
