"""Plans of one job that overlap, and plans that take too long."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import httpx2
import pytest

from lockstep_operator.core.model import Manifest
from lockstep_operator.errors import Refused
from lockstep_operator.kube import job_ref
from lockstep_operator.policies import Policies
from lockstep_operator.turns import Turns
from tests.support.kube import failing, job_body
from tests.support.planner import BOTH, PLAN, POD_0, POD_1, Setup, allocated, client
from tests.support.planner import report as report_of
from tests.support.planner import request as request_of

Resize = Callable[..., Awaitable[Manifest]]


async def settled() -> None:
    """Everything that can go on has done so: nothing here waits for a clock or a socket."""
    for _ in range(1000):
        await asyncio.sleep(0)


async def waits_in_line(setup: Setup) -> None:
    """A call of the job waits; threads read its body, in their own time."""
    while not any(setup.planner.turns._waiting.values()):
        await settled()


def cpu_at_max(setup: Setup, cpu: str) -> None:
    """From the next plan on, policy max asks for this limit."""
    devices = [{"name": "fast", "replicas": 2, "cpuAtMax": cpu}]
    body = setup.kube.objects[job_ref("lab", "digits")]
    setup.kube.put({**body, "spec": job_body(devices=devices)["spec"]})


def limits_of(setup: Setup) -> set[str]:
    return {
        stored["spec"]["containers"][0]["resources"]["limits"]["cpu"]
        for ref, stored in setup.kube.objects.items()
        if ref.kind == "Pod"
    }


def held_up(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """The first resize waits until the second event is set; the first event says that it does."""
    waits, go_on, resize = asyncio.Event(), asyncio.Event(), setup.kube.resize

    async def slow(namespace: str, pod: str, *, container: str, cpu: str) -> Manifest:
        if not waits.is_set():
            waits.set()
            await go_on.wait()
        return await resize(namespace, pod, container=container, cpu=cpu)

    monkeypatch.setattr(setup.kube, "resize", slow)
    return waits, go_on


def call(setup: Setup, round: int) -> asyncio.Task[httpx2.Response]:
    return asyncio.create_task(setup.http.post(PLAN, json=request_of(round)))


async def test_the_limits_of_the_newer_plan_win_over_those_of_one_that_is_still_being_set(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    planner = replace(setup.planner, resizer=replace(setup.planner.resizer, wait_s=5.0))
    async with client(planner) as http:
        setup.http = http
        waits, go_on = held_up(setup, monkeypatch)
        given_up = call(setup, 1)
        await waits.wait()
        cpu_at_max(setup, "200m")
        newer = call(setup, 1)
        await waits_in_line(setup)
        go_on.set()
        assert (await newer).status_code == 200
        await given_up
    await settled()
    assert limits_of(setup) == {"200m"}
    assert setup.report is not None
    assert setup.report.plan is not None
    assert {one.cpu_milli for one in setup.report.plan.participants} == {200}


async def test_of_calls_that_wait_only_the_newest_is_served_and_the_others_end_at_once(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was made of their bodies is not kept until the turn comes."""
    waits, go_on = held_up(setup, monkeypatch)
    first = call(setup, 1)
    await waits.wait()
    given_up = call(setup, 1)
    await waits_in_line(setup)
    newest = call(setup, 2)
    async with asyncio.timeout(60):
        answers = [await given_up]
    assert not first.done()
    go_on.set()
    answers = [await first, *answers, await newest]
    await settled()
    assert [one.status_code for one in answers] == [200, 503, 200]
    assert answers[1].headers["connection"] == "close"
    assert setup.report is not None
    assert setup.report.plan is not None
    assert setup.report.plan.round == 2


async def test_a_job_has_few_calls_from_their_bodies_to_their_answers(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits, go_on = held_up(setup, monkeypatch)
    calls = [call(setup, 1)]
    await waits.wait()
    calls += [call(setup, 1) for _ in range(20)]
    async with asyncio.timeout(60):
        late = set(calls)
        while len(late) > 2:
            _, late = await asyncio.wait(late, return_when=asyncio.FIRST_COMPLETED)
    go_on.set()
    codes = [(await one).status_code for one in calls]
    assert codes.count(200) == 2, "the one that was served, and one of those that waited"
    assert set(codes) <= {200, 429, 503}
    assert 429 in codes


async def test_jobs_do_not_wait_for_each_other_and_leave_nothing_behind() -> None:
    turns = Turns()
    async with turns.take("a"), turns.take("b"):
        assert set(turns._waiting) == {"a", "b"}
    assert turns._waiting == {}


async def test_a_call_that_is_cancelled_while_it_waits_frees_its_place() -> None:
    turns = Turns()

    async def wait() -> None:
        async with turns.take("a"):
            raise AssertionError("it had no turn")

    async with turns.take("a"):
        waiting = asyncio.create_task(wait())
        await settled()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert turns._waiting == {}


async def test_patches_that_are_not_answered_are_given_up(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    resizer = replace(setup.planner.resizer, wait_s=5.0, whole_s=0.2)
    _, _ = held_up(setup, monkeypatch)  # for ever
    async with client(replace(setup.planner, resizer=resizer)) as http:
        async with asyncio.timeout(60):
            plan = (await http.post(PLAN, json=request_of())).json()
    told = {one["client"]: (one["applied"], one.get("reason")) for one in plan["participants"]}
    assert (False, "resize not answered within 0.2 s") in told.values()


async def test_a_plan_that_takes_longer_than_its_caller_waits_is_given_up(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object) -> None:
        await asyncio.Event().wait()

    allocated(setup, policy="ppo")
    with monkeypatch.context() as patched:
        patched.setattr(Policies, "of", never)
        planner = replace(setup.planner, plan_s=0.05)
        async with client(planner) as http, asyncio.timeout(60):
            answer = await http.post(PLAN, json=request_of())
    assert (answer.status_code, answer.json()["message"]) == (503, "there is no plan after 0.05 s")
    assert (await setup.http.post(PLAN, json=request_of())).status_code == 200


async def test_a_plan_does_not_wait_long_for_its_events_which_are_told_all_the_same(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each may take as long as calls to the apiserver do."""
    answered, create = asyncio.Event(), setup.kube.create

    async def slow(manifest: Manifest) -> Manifest:
        if manifest["kind"] == "Event":
            await answered.wait()
        return await create(manifest)

    monkeypatch.setattr(setup.kube, "create", slow)
    setup.kube.fail = failing("resize", Refused("may not resize"), POD_1)
    assert (await setup.http.post(PLAN, json=request_of())).status_code == 200
    assert not setup.kube.events
    telling = set(setup.planner.telling)
    answered.set()
    await asyncio.gather(*telling)
    assert [event["reason"] for event in setup.kube.events] == ["CooperativeThrottling"]
    assert not setup.planner.telling


async def test_a_pod_that_just_failed_is_not_asked_and_waited_for_again(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One dead node costs one wait a round, not two."""
    allocated(setup, policy="equalize", energyWeight=0)
    resize = setup.kube.resize
    asked: list[str] = []

    async def dead(namespace: str, pod: str, *, container: str, cpu: str) -> Manifest:
        setup.kube.kubelet = pod != POD_0
        asked.append(pod)
        return await resize(namespace, pod, container=container, cpu=cpu)

    monkeypatch.setattr(setup.kube, "resize", dead)
    await setup.http.post(PLAN, json=request_of())
    asked.clear()
    done = report_of(1, ghz=0.6, clients=BOTH)
    done["clients"][1]["update"]["frequencyGHz"] = 2.0
    answer = await setup.http.post(PLAN, json=request_of(2, report=done))
    stuck, other = answer.json()["participants"]
    assert (stuck["applied"], stuck["reason"]) == (False, "not in force after 0.05 s")
    assert (other["applied"], other["frequencyGHz"]) == (True, pytest.approx(0.6))
    await settled()
    assert asked.count(POD_0) == 1
    assert asked.count(POD_1) == 1
