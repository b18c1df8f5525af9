"""What the planner's metrics tell of single jobs: costs and policy, until these end."""

import pytest

from lockstep_allocator.policy import SHIPPED
from lockstep_api import series
from lockstep_api.series import Series, labels
from lockstep_api.spec import Privacy
from lockstep_operator.core.privacy import spent
from lockstep_operator.kube import job_ref
from lockstep_operator.policies import BEGAN_WITH
from lockstep_serving import exporting
from tests.support.kube import KEY
from tests.support.planner import (
    BOTH,
    DONE,
    OUTCOME,
    PLAN,
    Setup,
    allocated,
    play,
    policy_map,
    private,
    report,
    request,
)

OF_JOBS = [one for one in series.of(series.Owner.OPERATOR) if labels.JOB in one.labels]


def value(setup: Setup, of: Series, *more: str) -> float | None:
    """A sample of the job's; `more` are its last labels."""
    told = dict(zip(of.labels, ("lab", "digits", *more), strict=True))
    return setup.deps.metrics.registry.get_sample_value(of.queried, told)


def policies_in_use(setup: Setup) -> list[tuple[str, str]]:
    """Policy and source of what is in use."""
    name = series.POLICY_IN_USE.queried
    return [
        (sample.labels[labels.POLICY], sample.labels[labels.SOURCE])
        for family in setup.deps.metrics.registry.collect()
        for sample in family.samples
        if sample.name == name
    ]


@pytest.mark.parametrize("policy", ["max", "equalize"])
async def test_what_a_plan_costs_is_told_once_work_was_measured(setup: Setup, policy: str) -> None:
    allocated(setup, policy=policy, energyWeight=100)
    await setup.http.post(PLAN, json=request())
    assert value(setup, series.PLAN_COST_SECONDS, "planned") is None
    assert value(setup, series.ROUND_COST_SECONDS, "spent") is None
    await setup.http.post(PLAN, json=request(2, report=report(1, 2.0, clients=BOTH)))
    planned, level, most = (
        value(setup, series.PLAN_COST_SECONDS, one) or 0.0
        for one in ("planned", "equalize", "maximum")
    )
    assert 0 < level < most
    assert planned == pytest.approx(level if policy == "equalize" else most, rel=1e-3)
    spent, best = (
        value(setup, series.ROUND_COST_SECONDS, one) or 0.0 for one in ("spent", "optimum")
    )
    assert 0 < best < spent


@pytest.mark.parametrize("policy", ["max", "static", "equalize"])
async def test_a_policy_without_a_file_is_built_in(setup: Setup, policy: str) -> None:
    allocated(setup, policy=policy)
    await setup.http.post(PLAN, json=request())
    assert policies_in_use(setup) == [(policy, "builtin")]
    assert value(setup, series.POLICY_FALLBACKS, "missing") is None


async def test_where_a_trained_policy_comes_from_is_told(setup: Setup) -> None:
    allocated(setup, policy="ppo")
    await setup.http.post(PLAN, json=request())
    assert policies_in_use(setup) == [("ppo", "shipped")]
    setup.kube.put(policy_map(SHIPPED.read_bytes()))
    allocated(setup, policy="ppo", policyRef="mine", online=True)
    await setup.http.post(PLAN, json=request(2))
    assert policies_in_use(setup) == [("ppo", "ref")]
    learnt = policy_map(SHIPPED.read_bytes())
    learnt["metadata"] |= {"name": "digits-policy", "ownerReferences": [setup.owner]}
    setup.kube.put({**learnt, "data": {BEGAN_WITH: "mine"}})
    await setup.http.post(PLAN, json=request(3))
    assert policies_in_use(setup) == [("ppo", "online")]
    assert value(setup, series.POLICY_FALLBACKS, "missing") == 0, "so that the first is an increase"


@pytest.mark.parametrize(("content", "reason"), [(None, "missing"), (b"garbage", "invalid")])
async def test_plans_that_the_equaliser_made_instead_are_counted_by_reason(
    setup: Setup, content: bytes | None, reason: str
) -> None:
    if content is not None:
        setup.kube.put(policy_map(content))
    allocated(setup, policy="ppo", policyRef="mine")
    await play(setup, range(1, 4))
    assert policies_in_use(setup) == [("equalize", "fallback")]
    counts = {one: value(setup, series.POLICY_FALLBACKS, one) for one in ("missing", "invalid")}
    assert counts == {"missing": 0, "invalid": 0} | {reason: 3}


async def test_a_job_that_has_ended_is_told_no_more(setup: Setup) -> None:
    allocated(setup, policy="ppo", energyWeight=1)
    await play(setup, range(1, 3))
    assert names_of_the_job(setup)
    assert (await setup.http.post(OUTCOME, json=DONE)).status_code == 200
    assert names_of_the_job(setup) == set()


async def test_a_private_jobs_epsilon_is_told_and_stays_when_the_operator_restarts(
    setup: Setup,
) -> None:
    private(setup)
    for number, rounds in ((1, 0), (2, 1), (3, 2)):
        answer = await setup.http.post(PLAN, json=request(number) | {"privateRounds": rounds})
        assert answer.json()["privacy"]["rounds"] == rounds
    privacy = Privacy(clip_norm=1, noise_multiplier=2)
    assert value(setup, series.PRIVACY_EPSILON) == spent(privacy, clients=2, rounds=2)
    while shown_rounds(setup) != 2:
        await setup.planner.runtime.pass_now(KEY)
    setup.deps.sources.reports.forget(KEY)
    answer = await setup.http.post(PLAN, json=request(4) | {"privateRounds": 0})
    assert answer.json()["privacy"]["leastRounds"] == 3


def shown_rounds(setup: Setup) -> int:
    """Rounds that count, as the job's status says."""
    body = setup.kube.objects[job_ref("lab", "digits")]
    return int(body.get("status", {}).get("privacy", {}).get("rounds", 0))


async def test_a_job_that_is_gone_is_told_no_more(setup: Setup) -> None:
    private(setup, policy="ppo", energyWeight=1)
    await play(setup, range(1, 3))
    told = {one.name for one in OF_JOBS if one.where is series.Where.ALL}
    assert names_of_the_job(setup) == told
    setup.deps.sources.reports.forget(KEY)
    assert names_of_the_job(setup) == set()


def names_of_the_job(setup: Setup) -> set[str]:
    """Series that have a sample of the job."""
    text = exporting.page(setup.deps.metrics.registry).decode()
    lines = [line for line in text.splitlines() if 'job="digits"' in line]
    return {line.partition("{")[0].removesuffix("_total") for line in lines}
