"""The round's ledger: who is in, who is lost, when it closes; the accumulator; the report."""

import numpy as np
import pytest

from lockstep_api.budget import MOST_STEPS
from lockstep_api.sessions import Refusal
from lockstep_api.spec import Target
from lockstep_api.status import EnergyJoules
from lockstep_api.wire import ClientPlan, ClientReport, RoundPlan, RoundReport, Task, UpdateReport
from lockstep_workers.errors import JobFailed, RefusedUpdate
from lockstep_workers.learning.rounds import (
    Base,
    Progress,
    Round,
    Tries,
    repeat_plan,
    round_report,
    target_reached,
)
from lockstep_workers.learning.strategy import Contribution
from lockstep_workers.learning.sums import Accumulator, ExactSum, RoundSum, Share

ONE = Contribution(examples=1, steps=1)


def plan(*clients: str, **more: object) -> RoundPlan:
    """A plan of round 2."""
    chosen = [
        ClientPlan(client=c, frequency_ghz=1, cpu_milli=100, steps=1, applied=True) for c in clients
    ]
    return RoundPlan.model_validate({"round": 2, "rounds": 5, "participants": chosen, **more})


def update(client: str, *, round_number: int = 2) -> ClientReport:
    """An update in order, with 3 J."""
    report = UpdateReport(
        client=client, round=round_number, examples=1, steps=1, download_seconds=0,
        compute_seconds=0, cpu_seconds=0, throttled_seconds=0, frequency_ghz=1,
        energy_joules=EnergyJoules(model=3.0),
    )  # fmt: skip
    return ClientReport(update=report, arrived_seconds=0, upload_seconds=0, bytes=0)


@pytest.mark.parametrize(
    ("steps", "budget_seconds", "asked"), [(7, None, 7), (7, 2.0, 7), (MOST_STEPS, 2.0, None)]
)
def test_an_accepted_update_says_how_many_steps_were_asked_for(
    steps: int, budget_seconds: float | None, asked: int | None
) -> None:
    (entry,) = plan("a").participants
    told = entry.model_copy(update={"steps": steps, "budget_seconds": budget_seconds})
    now = Round(plan("a").model_copy(update={"participants": [told]}), began_s=0)
    task = now.task_of("a")
    assert task is not None
    assert (task.steps, task.budget_seconds) == (steps, budget_seconds)
    now.accept(update("a"))
    assert [one.asked_steps for one in now.accepted.values()] == [asked]


def test_a_round_closes_when_all_are_in_or_lost() -> None:
    now = Round(plan("a", "b"), began_s=0)
    assert not now.is_closed(1e9)
    now.accept(update("a"))
    assert now.waiting() == ["b"]
    now.lose("b", "gone")
    now.lose("a", "gone after its update: it counts")
    assert now.is_closed(0)
    assert now.lost == {"b": "gone"}


@pytest.mark.parametrize(
    ("accepted", "now_s", "closed"),
    [(("a",), 10.0, False), (("a", "b"), 10.0, True), (("a", "b"), 9.9, False)],
)
def test_the_deadline_needs_the_quorum(
    accepted: tuple[str, ...], now_s: float, closed: bool
) -> None:
    now = Round(plan("a", "b", "c", quorum=2, deadlineSeconds=5), began_s=5)
    for client in accepted:
        now.accept(update(client))
    assert now.is_closed(now_s) is closed


def test_a_quorum_above_a_sampled_round_means_all_of_it() -> None:
    now = Round(plan("a", "b", quorum=5, deadlineSeconds=5), began_s=0)
    now.accept(update("a"))
    assert not now.is_closed(6)
    now.accept(update("b"))
    assert now.is_closed(6)


@pytest.mark.parametrize(
    ("client", "round_number", "reason"),
    [
        ("a", 2, Refusal.DUPLICATE),
        ("b", 1, Refusal.WRONG_ROUND),
        ("c", 2, Refusal.NOT_IN_ROUND),
        ("x", 2, Refusal.NOT_IN_ROUND),
    ],
)
def test_updates_that_are_not_welcome(client: str, round_number: int, reason: Refusal) -> None:
    now = Round(plan("a", "b", "c"), began_s=0)
    now.accept(update("a"))
    now.lose("c", "gone")
    with pytest.raises(RefusedUpdate) as caught:
        now.check(update(client, round_number=round_number).update)
    assert caught.value.reason is reason


@pytest.mark.parametrize("kind", [Accumulator, ExactSum])
def test_the_mean_is_weighted_and_does_not_depend_on_the_block(
    kind: type[Accumulator] | type[ExactSum],
) -> None:
    rng = np.random.default_rng(0)
    total = kind(200_000)
    vectors = rng.normal(size=(3, 200_000)).astype(np.float32)
    weights = (1.0, 2.0, 5.0)
    for weight, vector in zip(weights, vectors, strict=True):
        total.add(vector, (weight,))
    expected = np.average(vectors, axis=0, weights=weights)
    np.testing.assert_allclose(total.mean([8.0]), expected, rtol=1e-4, atol=1e-5)
    total.reset()
    total.add(vectors[0], (4.0,))
    np.testing.assert_allclose(total.mean([4.0]), vectors[0], rtol=1e-6)


@pytest.mark.parametrize("exact", [False, True])
def test_partial_sums_are_merged_with_what_is_in_them(exact: bool) -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(4, 20)).astype(np.float32)
    shares = [Share((n, 1.0), Contribution(n, 1)) for n in (3, 5, 7, 11)]
    whole, edges = RoundSum(20, vectors=2, exact=exact), [
        RoundSum(20, vectors=2, exact=exact) for _ in range(2)
    ]  # fmt: skip
    for i, (vector, share) in enumerate(zip(vectors, shares, strict=True)):
        edges[i % 2].add(f"c-{i}", vector, share=share)
    for edge in edges:
        whole.merge(edge.part())
    assert whole.weights == [26.0, 4.0]
    order = ["c-3", "c-9", "c-0", "c-2", "c-1"]
    assert [one.examples for one in whole.contributions(order)] == [11, 3, 7, 5]
    mean = whole.mean()
    expected = np.average(vectors[:, :10], axis=0, weights=[3, 5, 7, 11])
    np.testing.assert_allclose(mean[:10], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(mean[10:], vectors[:, 10:].mean(0), rtol=1e-5, atol=1e-6)


def test_a_partial_sum_that_does_not_fit_is_not_merged() -> None:
    total, other = RoundSum(4), RoundSum(4)
    for one in (total, other):
        one.add("a", np.ones(4, np.float32), share=Share((2.0,), ONE))
    broken = RoundSum(4)
    broken.add("b", np.array([1, 1, 1, np.inf], np.float32), share=Share((2.0,), ONE))
    for wrong, reason in (
        (other, Refusal.DUPLICATE),
        (RoundSum(5), Refusal.SHAPE),
        (RoundSum(4, exact=True), Refusal.DTYPE),
        (broken, Refusal.NON_FINITE),
    ):
        with pytest.raises(RefusedUpdate) as caught:
            total.merge(wrong.part())
        assert caught.value.reason is reason
    assert total.weights == [2.0]
    np.testing.assert_array_equal(total.mean(), np.ones(4, np.float32))


def test_a_task_says_what_the_round_builds_on() -> None:
    """Mean steps by examples of those who take part, whatever other clients hold."""
    base = Base({"a": 1}, 1, {"a": 30, "b": 10, "c": 1000}, {"since": 1 / 3})
    steps = {"a": 8, "b": 4}
    chosen = [p.model_copy(update={"steps": steps[p.client]}) for p in plan("a", "b").participants]
    now = Round(plan(participants=chosen), began_s=0, base=base)
    first, second = now.task_of("a"), now.task_of("b")
    assert first is not None
    assert second is not None
    assert (first.base_round, second.base_round, first.saved_round) == (1, None, 1)
    assert first.mean_steps == second.mean_steps == (30 * 8 + 10 * 4) / 40
    assert first.numbers == {"since": 1 / 3}
    assert Task.model_validate_json(first.to_json()) == first


def test_an_update_counts_as_its_report_and_the_round_say() -> None:
    now = Round(plan("a", "b"), began_s=0, base=Base(counted={"a": 1}))
    told = {name: update(name).update.model_copy(update={"memory_round": 1}) for name in "ab"}
    known, claimed = (now.contribution(told[name]) for name in "ab")
    assert known == Contribution(1, 1, memory_round=1, counted_round=1)
    assert known.remembered
    assert claimed == Contribution(1, 1, memory_round=1, counted_round=None)
    assert not claimed.remembered, "nothing of it is in the model, whatever it says"


@pytest.mark.parametrize(
    ("budget_seconds", "told", "counted"), [(None, 3, 8), (None, 99, 8), (2.0, 3, 3), (2.0, 99, 8)]
)
def test_steps_count_as_asked_and_fewer_only_where_a_budget_may_end_them(
    budget_seconds: float | None, told: int, counted: int
) -> None:
    (entry,) = plan("a").participants
    asked = entry.model_copy(update={"steps": 8, "budget_seconds": budget_seconds})
    now = Round(plan(participants=[asked]), began_s=0, base=Base(examples={"a": 30}))
    arrived = update("a")
    said = arrived.update.model_copy(update={"steps": told, "examples": 10**9})
    contribution = now.contribution(said)
    assert (contribution.examples, contribution.steps) == (30, counted)
    now.accept(arrived.model_copy(update={"update": said}))
    noted = now.accepted["a"].update
    assert (noted.examples, noted.steps) == (30, min(told, 8)), "people are told what was done"


def test_the_report_counts_who_is_missing_and_adds_up_energy() -> None:
    now = Round(plan("a", "b", "c"), began_s=10)
    now.accept(update("a"))
    now.lose("b", "gone")
    first = RoundReport(
        round=1, planned=True, seconds=1, elapsed_seconds=1, clients=[],
        energy_joules=EnergyJoules(model=1.0),
    )  # fmt: skip
    before = Progress(round=1, report=first)
    report = round_report(now, before, now_s=12, result={"accuracy": 0.5, "loss": 1.0}, powers={})
    assert (report.lost, report.seconds, report.elapsed_seconds) == (["b", "c"], 2, 12)
    assert report.energy_joules == EnergyJoules(model=4.0)


def test_energy_of_different_sources_stays_apart() -> None:
    total = EnergyJoules(model=1.0).plus(EnergyJoules(cpu=2.0))
    assert total == EnergyJoules(model=1.0, cpu=2.0)
    assert total.measured is None


@pytest.mark.parametrize(
    ("target", "reached"),
    [
        (None, False),
        (Target(value=0.5), True),
        (Target(value=0.51), False),
        (Target(metric="loss", value=1.0), True),
        (Target(metric="loss", value=0.9), False),
    ],
)
def test_the_target(target: Target | None, reached: bool) -> None:
    now = Round(plan("a"), began_s=0)
    report = round_report(
        now, Progress(), now_s=1, result={"accuracy": 0.5, "loss": 1.0}, powers={}
    )
    assert target_reached(plan("a", target=target), report) is reached


def test_without_the_planner_the_last_plan_serves_again() -> None:
    again = repeat_plan(plan("a"), round_number=3)
    assert (again.round, again.planned, again.participants) == (3, False, plan("a").participants)


def test_a_round_without_updates_is_tried_so_often_only_where_all_were_bad() -> None:
    tries = Tries()
    lost = Round(plan("a", "b"), began_s=0.0)
    for client in lost.participants():
        lost.lose(client, "its connection closed")
    for _ in range(5):
        assert "got no update and is repeated" in tries.fruitless(lost)
    bad = Round(plan("a", "b"), began_s=0.0)
    for client in bad.participants():
        bad.reject(client, "not finite")
    assert "it is repeated (try 1 of 3)" in tries.fruitless(bad)
    assert "it is repeated (try 2 of 3)" in tries.fruitless(bad)
    with pytest.raises(JobFailed, match=r"all updates were refused: .*not finite.* .tried 3 times"):
        tries.fruitless(bad)
