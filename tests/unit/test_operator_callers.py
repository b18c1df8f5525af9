"""Who may call the planner, and what it does not serve."""

from dataclasses import replace
from typing import Any

import pytest

from lockstep_allocator.policy import Policy
from lockstep_api import names
from lockstep_operator.auth import (
    CACHE_S,
    FIRST_OF_ALL,
    FURTHER_OF_ALL,
    NEW_S,
    OF_ONE,
    REFUSED_S,
    Authenticator,
    Caller,
)
from lockstep_operator.core.model import Manifest
from lockstep_operator.errors import TooManyCalls, Unauthenticated, Unavailable
from lockstep_operator.kube import POD, job_ref
from lockstep_operator.kube_reviews import User
from lockstep_operator.planner import Planner
from lockstep_operator.policies import Policies
from lockstep_operator.policy_learning import PolicyLearning
from tests.support.kube import (
    KEY,
    FakeKube,
    failing,
    job_body,
    status_of,
)
from tests.support.planner import (
    CLOUD_USER,
    DONE,
    OUTCOME,
    PLAN,
    Setup,
    allocated,
    client,
    online,
    request,
)

CLOUD = Caller("Bearer cloud", "10.0.0.9")


async def test_a_client_of_no_group_is_refused_in_words(setup: Setup) -> None:
    answer = await setup.http.post(PLAN, json=request(1, "ghost-0"))
    assert answer.status_code == 422
    assert "ghost-0" in answer.json()["message"]


async def test_a_body_that_is_no_request_is_refused(setup: Setup) -> None:
    assert (await setup.http.post(PLAN, json={"round": 0})).status_code == 422


async def test_a_job_that_does_not_exist(setup: Setup) -> None:
    setup.kube.remove(job_ref("lab", "digits"))
    assert (await setup.http.post(PLAN, json=request())).status_code == 404


@pytest.mark.parametrize("phase", ["Completed", "Failed", "Refused"])
async def test_a_job_that_takes_no_rounds(setup: Setup, phase: str) -> None:
    stored = setup.kube.objects[job_ref("lab", "digits")]
    setup.kube.put({**stored, "status": {"phase": phase}})
    answer = await setup.http.post(PLAN, json=request())
    assert answer.status_code == 409
    assert phase in answer.json()["message"]


async def test_kubernetes_does_not_answer(setup: Setup) -> None:
    setup.kube.fail = failing("list", Unavailable("connection lost"), "Pod")
    answer = await setup.http.post(PLAN, json=request())
    assert (answer.status_code, answer.json()) == (503, {"message": "connection lost"})


@pytest.mark.parametrize(
    ("token", "status"), [(None, 401), ("made-up", 401), ("device", 403), ("cloud", 200)]
)
@pytest.mark.parametrize("route", [PLAN, OUTCOME])
async def test_only_the_cloud_pod_may_call(
    setup: Setup, token: str | None, status: int, route: str
) -> None:
    async with client(setup.planner, token=token) as http:
        body: Any = request() if route == PLAN else DONE
        answer = await http.post(route, json=body)
    assert answer.status_code == status
    assert status == 200 or answer.json()["message"]


async def test_the_cloud_pod_of_another_job_may_not_call(setup: Setup) -> None:
    setup.kube.users["cloud"] = User("system:serviceaccount:lab:other-cloud", "x")
    assert (await setup.http.post(PLAN, json=request())).status_code == 403


async def test_the_check_can_be_switched_off(setup: Setup) -> None:
    async with client(replace(setup.planner, authenticator=None), token=None) as http:
        assert (await http.post(PLAN, json=request())).status_code == 200


async def test_a_token_is_reviewed_once_a_minute() -> None:
    now = [0.0]
    kube = FakeKube(users={"cloud": User(CLOUD_USER, "x")})
    checked = Authenticator(kube, clock=lambda: now[0])
    for moment in (0.0, CACHE_S - 1, CACHE_S + 1):
        now[0] = moment
        await checked.check(KEY, CLOUD)
    assert kube.reviews == [("cloud", names.PLANNER_AUDIENCE)] * 2


async def test_a_refused_token_is_reviewed_again_after_some_seconds() -> None:
    now = [0.0]
    kube = FakeKube()
    checked = Authenticator(kube, clock=lambda: now[0])
    for moment in (0.0, REFUSED_S - 1, REFUSED_S + 1):
        now[0] = moment
        with pytest.raises(Unauthenticated):
            await checked.check(KEY, Caller("Bearer made-up", "10.0.0.1"))
    assert len(kube.reviews) == 2


async def flooded(checked: Authenticator, *sources: str, tokens: int) -> None:
    """Each source sends so many tokens, all different and all wrong."""
    for number in range(tokens):
        for source in sources:
            with pytest.raises((Unauthenticated, TooManyCalls)):
                await checked.check(KEY, Caller(f"Bearer {source} {number}", source))


async def test_wrong_tokens_cost_so_many_reviews_and_no_more() -> None:
    kube = FakeKube()
    checked = Authenticator(kube, clock=lambda: 0.0)
    await flooded(checked, "10.0.0.1", tokens=1000)
    assert len(kube.reviews) == OF_ONE.burst
    await flooded(checked, *(f"10.0.1.{i}" for i in range(100)), tokens=40)
    assert len(kube.reviews) <= FIRST_OF_ALL.burst + FURTHER_OF_ALL.burst
    assert len(checked._refused) <= len(kube.reviews)


async def test_a_flood_of_wrong_tokens_turns_no_valid_caller_away() -> None:
    now = [0.0]
    kube = FakeKube(users={"cloud": User(CLOUD_USER, "x"), "new": User(CLOUD_USER, "y")})
    checked = Authenticator(kube, clock=lambda: now[0])
    await checked.check(KEY, CLOUD)
    hostile = [f"10.0.1.{i}" for i in range(20)]
    await flooded(checked, CLOUD.source, *hostile, tokens=40)
    await checked.check(KEY, Caller("Bearer new", "10.0.0.2"))  # a pod that has just started
    now[0] = CACHE_S + 1
    await flooded(checked, CLOUD.source, *hostile, tokens=40)
    await checked.check(KEY, CLOUD)  # known, although it has to be reviewed again
    assert kube.reviews.count(("cloud", names.PLANNER_AUDIENCE)) == 2


async def test_permits_for_reviews_come_back() -> None:
    now = [0.0]
    kube = FakeKube()
    checked = Authenticator(kube, clock=lambda: now[0])
    await flooded(checked, "10.0.0.1", tokens=40)
    now[0] = 1 / OF_ONE.per_s
    await flooded(checked, "10.0.0.1", tokens=40)
    assert len(kube.reviews) == OF_ONE.burst + 1


async def test_a_token_of_any_length_is_no_work_for_the_apiserver() -> None:
    kube = FakeKube()
    with pytest.raises(Unauthenticated):
        await Authenticator(kube).check(KEY, Caller("Bearer " + "x" * 20_000))
    assert kube.reviews == []


async def test_an_unreadable_spec_is_refused_with_its_path(setup: Setup) -> None:
    setup.kube.put(_with_uid(setup, job_body(devices=[])))
    answer = await setup.http.post(PLAN, json=request())
    assert answer.status_code == 422
    assert "spec.devices" in answer.json()["message"]


def _with_uid(setup: Setup, job: Manifest) -> Manifest:
    job["metadata"]["uid"] = setup.kube.objects[job_ref("lab", "digits")]["metadata"]["uid"]
    return job


async def test_the_cloud_pod_of_a_deleted_job_does_not_speak_for_the_next_of_its_name(
    setup: Setup,
) -> None:
    assert (await setup.http.post(PLAN, json=request())).status_code == 200
    setup.kube.put(job_body() | {"metadata": job_body()["metadata"] | {"uid": "new"}})

    async def statuses() -> list[int]:
        calls = ((PLAN, request(7)), (OUTCOME, DONE))
        return [(await setup.http.post(route, json=body)).status_code for route, body in calls]

    assert await statuses() == [403, 403]
    await setup.planner.runtime.pass_now(KEY)  # deletes what is left of the old job
    assert await statuses() == [403, 403]
    await setup.planner.runtime.pass_now(KEY)
    assert await statuses() == [403, 403]
    assert status_of(setup.kube)["phase"] == "Starting"
    assert setup.deps.sources.reports.get("new") is None
    setup.kube.account("cloud", "digits-cloud")
    async with client(replace(setup.planner, authenticator=Authenticator(setup.kube))) as http:
        assert (await http.post(PLAN, json=request())).status_code == 200


async def test_who_does_not_lead_plans_nothing(setup: Setup) -> None:
    planner = replace(setup.planner, leads=lambda namespace: False)
    async with client(planner) as http:
        for path, body in ((PLAN, request(1)), (OUTCOME, DONE)):
            answer = await http.post(path, json=body)
            assert answer.status_code == 503
            assert answer.headers["connection"] == "close"
            assert "does not lead" in answer.json()["message"]
    assert [verb for verb, _ in setup.kube.writes if verb != "apply"] == []


def broken(*_: object) -> Policy:
    raise ValueError("operands could not be broadcast together")


async def test_what_nobody_foresaw_is_a_500_with_its_traceback_in_the_log(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    allocated(setup, policy="ppo")
    monkeypatch.setattr(Policies, "of", broken)
    answer = await setup.http.post(PLAN, json=request())
    assert answer.status_code == 500
    assert answer.json() == {"message": "the planner failed: ValueError; its log says why"}
    (record,) = [one for one in caplog.records if one.levelname == "ERROR"]
    assert record.exc_info is not None
    assert "broken" in caplog.text  # the traceback says where
    assert "operands could not be broadcast" in record.getMessage()
    monkeypatch.undo()
    assert (await setup.http.post(PLAN, json=request())).status_code == 200


async def test_a_failure_after_the_answer_is_logged_too(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await online(setup)
    monkeypatch.setattr(PolicyLearning, "has_news", broken)
    assert (await setup.http.post(PLAN, json=request())).status_code == 200
    (record,) = [one for one in caplog.records if one.levelname == "ERROR"]
    assert record.exc_info is not None


async def test_a_request_that_does_not_fit_is_no_error_of_the_planner(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    assert (await setup.http.post(PLAN, json=request(1, "ghost-0"))).status_code == 422
    assert [one for one in caplog.records if one.levelname == "ERROR"] == []


# -- pods that are gone ----------------------------------------------------------------------------


def see(setup: Setup, *, uid: str) -> None:
    """The watch of pods tells of the cloud pod."""
    labels = {names.JOB_LABEL: KEY.name}
    meta: Manifest = {"name": "digits-cloud-0", "namespace": "lab", "uid": uid, "labels": labels}
    pod: Manifest = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**meta, "resourceVersion": "9"},
    }
    (pods,) = (one for one in setup.deps.sources.cluster.all_kept() if one.source.kind == POD)
    pods.put(pod)


def at(setup: Setup, now_s: list[float]) -> Planner:
    """The planner, whose time is the test's."""
    checked = Authenticator(setup.kube, clock=lambda: now_s[0])
    return replace(setup.planner, authenticator=checked)


async def test_a_cloud_pod_that_is_seen_is_reviewed_once_a_minute(setup: Setup) -> None:
    now_s = [0.0]
    see(setup, uid="pod-1")
    async with client(at(setup, now_s)) as http:
        for moment in (0.0, NEW_S + 1, CACHE_S - 1):
            now_s[0] = moment
            assert (await http.post(PLAN, json=request())).status_code == 200
    assert len(setup.kube.reviews) == 1


async def test_a_cloud_pod_that_another_one_has_replaced_may_not_call(setup: Setup) -> None:
    """Although its token was valid a moment ago."""
    async with client(at(setup, [0.0])) as http:
        assert (await http.post(PLAN, json=request())).status_code == 200
        see(setup, uid="pod-2")
        answer = await http.post(PLAN, json=request())
    assert answer.status_code == 403
    assert "another pod is digits-cloud-0 now" in answer.json()["message"]


async def test_a_cloud_pod_that_is_gone_may_not_call(setup: Setup) -> None:
    """Nor one that nobody has seen yet and nobody will: the apiserver is asked again."""
    now_s = [0.0]
    async with client(at(setup, now_s)) as http:
        assert (await http.post(PLAN, json=request())).status_code == 200
        now_s[0] = NEW_S - 1
        assert (await http.post(PLAN, json=request())).status_code == 200
        assert len(setup.kube.reviews) == 1
        del setup.kube.users["cloud"]
        now_s[0] = NEW_S
        assert (await http.post(PLAN, json=request())).status_code == 401


@pytest.mark.parametrize("pod", ["", "digits-cloud-1", "digits-device-fast-0"])
async def test_a_token_of_the_cloud_pods_account_is_not_the_cloud_pods(
    setup: Setup, pod: str
) -> None:
    """Whoever may make tokens of accounts, or pods that have them, is not it for that alone."""
    user = setup.kube.users["cloud"]
    setup.kube.users["cloud"] = replace(user, pod=pod)
    answer = await setup.http.post(PLAN, json=request())
    assert answer.status_code == 403
    assert "is not that of the cloud pod" in answer.json()["message"]
