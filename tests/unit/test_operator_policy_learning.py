"""Learning on the job: rounds are recorded, trainers started, their offers judged."""

import asyncio
import base64
import json
import threading
import tracemalloc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors.numpy import save

from lockstep_allocator import records
from lockstep_allocator.experience import Experience
from lockstep_allocator.policy import SHIPPED, Policy, read_policy
from lockstep_api import names
from lockstep_operator.core.learn import judge
from lockstep_operator.core.model import ObjectRef
from lockstep_operator.errors import Unavailable
from lockstep_operator.experiences import Experiences, devices
from lockstep_operator.kube import job_ref
from lockstep_operator.policies import Policies
from lockstep_operator.policy_learning import PolicyLearning
from lockstep_operator.reports import Reports
from tests.support.kube import (
    KEY,
    failing,
)
from tests.support.planner import (
    DONE,
    EXPERIENCE,
    OUTCOME,
    PLAN,
    POLICY,
    Setup,
    allocated,
    client,
    offer,
    online,
    play,
    request,
    slow,
    told,
)
from tests.support.threads import threads_of

RECORDS = ("experience", "policy")


async def test_every_20_rounds_a_trainer_learns_from_what_was_recorded(setup: Setup) -> None:
    await online(setup)
    await play(setup, range(1, 22))
    assert ObjectRef("batch/v1", "Job", "lab", "digits-trainer-20") not in setup.kube.objects
    await play(setup, range(22, 23))  # of round 1 nobody knew how long a step takes
    trainer = setup.kube.objects[ObjectRef("batch/v1", "Job", "lab", "digits-trainer-21")]
    pod = trainer["spec"]["template"]["spec"]
    assert pod["serviceAccountName"] == "digits-trainer"
    assert pod["containers"][0]["args"] == ["trainer"]
    sources = next(v for v in pod["volumes"] if v["name"] == "experience")["projected"]["sources"]
    files = {
        name: content
        for source in sources
        for name, content in setup.kube.objects[
            ObjectRef("v1", "ConfigMap", "lab", source["configMap"]["name"])
        ]["binaryData"].items()
    }
    rounds = Experience.from_bytes(base64.b64decode(files[names.EXPERIENCE_FILE]))
    assert [record.round for record in rounds.records] == list(range(2, 22))
    began = Policy.from_bytes(base64.b64decode(files[names.POLICY_FILE]), source="test")
    assert began.training == read_policy(SHIPPED).training
    assert told(setup, "TrainerStarted") == ["digits-trainer-21 learns from the last 20 rounds"]
    await play(setup, range(23, 42))
    assert told(setup, "TrainerSilent") == []
    await play(setup, range(42, 43))
    assert told(setup, "TrainerSilent") == [
        "digits-trainer-21 gave no policy: kubectl logs job/digits-trainer-21 says why"
    ]


async def test_a_trainer_that_a_suspension_took_away_is_not_called_silent(setup: Setup) -> None:
    await online(setup)
    await play(setup, range(1, 23))
    assert len(told(setup, "TrainerStarted")) == 1
    job = setup.kube.objects[job_ref("lab", "digits")]
    resumed = {**job["status"], "activeTime": "2026-01-02T09:00:00Z"}
    setup.kube.put({**job, "status": resumed})
    setup.deps.sources.written.clear()  # the status counts as the operator's own
    await play(setup, range(23, 43))
    assert len(told(setup, "TrainerStarted")) == 2
    assert told(setup, "TrainerSilent") == []


async def test_a_job_that_does_not_ask_for_it_records_nothing(setup: Setup) -> None:
    allocated(setup, policy="ppo")
    await setup.planner.runtime.pass_now(KEY)
    await play(setup, range(1, 24))
    assert EXPERIENCE not in setup.kube.objects
    assert (await offer(setup, read_policy(SHIPPED))).status_code == 409


async def test_a_restarted_operator_goes_on_with_the_rounds_that_were_recorded(
    setup: Setup,
) -> None:
    await online(setup)
    await play(setup, range(1, 12))
    policies = Policies(setup.kube)
    learning = PolicyLearning(setup.deps, policies)
    anew = replace(setup.planner, reports=Reports(), policies=policies, learning=learning)
    async with client(anew) as http:
        again = Setup(setup.kube, setup.deps, anew, setup.probes, http)
        await play(again, range(12, 24))
    assert told(setup, "TrainerStarted") == ["digits-trainer-22 learns from the last 20 rounds"]


async def test_a_policy_is_taken_up_only_if_the_recorded_rounds_had_not_cost_more(
    setup: Setup,
) -> None:
    await online(setup, energyWeight=0)
    await play(setup, range(1, 23))
    shipped = read_policy(SHIPPED)
    same = await offer(setup, shipped)
    assert same.json() == {
        "taken": False,
        "message": "20 rounds taught nothing that is surely better: the policy stays",
    }
    worse = (await offer(setup, slow(shipped))).json()
    assert not worse["taken"]
    assert "the policy stays, the one that was learnt is worse" in worse["message"]
    before = await setup.planner.policies.learnt(KEY, None, uid=setup.uid)
    assert before is not None
    assert (before.weights["leave.2.bias"] == shipped.weights["leave.2.bias"]).all()
    allocated(setup, policy="ppo", online=True, energyWeight=1e6)  # being slow is worth it now
    await play(setup, range(23, 125))
    better = (await offer(setup, slow(shipped))).json()
    assert better["taken"]
    assert "the policy that was learnt is used from now on" in better["message"]
    assert len(told(setup, "PolicyUpdated")) == 1
    assert len(told(setup, "PolicyKept")) == 2
    assert setup.sample("lockstep_policies_offered_total") is None  # by verdict only
    learnt = await setup.planner.policies.learnt(KEY, None, uid=setup.uid)
    assert learnt is not None
    assert learnt.weights["leave.2.bias"].tolist() == [9, -9, 0]
    # A job that asks for another policy begins with that.
    assert await setup.planner.policies.learnt(KEY, "mine", uid=setup.uid) is None


async def test_what_was_learnt_is_given_up_when_the_rounds_say_so(setup: Setup) -> None:
    await online(setup, energyWeight=1e6)
    await play(setup, range(1, 23))
    shipped = read_policy(SHIPPED)
    assert (await offer(setup, slow(shipped))).json()["taken"]
    allocated(setup, policy="ppo", online=True, energyWeight=0)
    await play(setup, range(23, 125))
    back = (await offer(setup, slow(shipped))).json()
    assert not back["taken"]
    assert "back to the policy that the job began with" in back["message"]
    learnt = await setup.planner.policies.learnt(KEY, None, uid=setup.uid)
    assert learnt is not None
    assert learnt.weights["leave.2.bias"].tolist() == shipped.weights["leave.2.bias"].tolist()


async def test_an_offer_before_a_round_is_recorded_is_refused(setup: Setup) -> None:
    await online(setup)
    answer = await offer(setup, read_policy(SHIPPED))
    assert answer.status_code == 422
    assert "no round is recorded" in answer.json()["message"]


async def test_of_a_job_one_offer_at_a_time_is_judged(setup: Setup) -> None:
    await online(setup)
    await play(setup, range(1, 23))
    shipped = read_policy(SHIPPED)
    answers = await asyncio.gather(*(offer(setup, shipped) for _ in range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 429, 429, 429]
    assert (await offer(setup, shipped)).status_code == 200


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        (b"garbage", 422, "the policy offered is no policy file"),
        (SHIPPED.read_bytes()[:-4], 422, "the policy offered is damaged"),
    ],
)
async def test_an_offer_that_is_no_policy_is_refused(
    setup: Setup, content: bytes, status: int, message: str
) -> None:
    await online(setup)
    headers = {"authorization": "Bearer trainer"}
    answer = await setup.http.post(POLICY, content=content, headers=headers)
    assert answer.status_code == status
    assert message in answer.json()["message"]


@pytest.mark.parametrize("token", ["cloud", "device"])
async def test_only_the_trainer_offers_policies(setup: Setup, token: str) -> None:
    await online(setup)
    assert (await offer(setup, read_policy(SHIPPED), token)).status_code == 403
    headers = {"authorization": "Bearer trainer"}
    refused = await setup.http.post(PLAN, json=request(), headers=headers)
    assert refused.status_code == 403


async def test_rounds_that_cannot_be_written_are_written_with_the_next(setup: Setup) -> None:
    await online(setup)
    setup.kube.fail = failing("create", Unavailable("etcd is full"), "digits-experience")
    await play(setup, range(1, 6))
    assert EXPERIENCE not in setup.kube.objects
    setup.kube.fail = lambda verb, name: None
    await play(setup, range(6, 7))
    content = setup.kube.objects[EXPERIENCE]["binaryData"][names.EXPERIENCE_FILE]
    rounds = Experience.from_bytes(base64.b64decode(content))
    assert [record.round for record in rounds.records] == [2, 3, 4, 5]


async def test_damaged_rounds_begin_anew(setup: Setup) -> None:
    await online(setup)
    meta = {"name": EXPERIENCE.name, "namespace": "lab", "ownerReferences": [setup.owner]}
    setup.kube.put({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "binaryData": {}})
    await play(setup, range(1, 5))
    content = setup.kube.objects[EXPERIENCE]["binaryData"][names.EXPERIENCE_FILE]
    assert len(Experience.from_bytes(base64.b64decode(content))) == 2


async def test_rounds_and_offers_are_read_beside_the_event_loop(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    await online(setup)
    await play(setup, range(1, 5))
    setup.planner.learning.held.forget(setup.uid)
    shipped = await setup.planner.policies.of(KEY, None)
    rounds, offers = threads_of(monkeypatch, Experience), threads_of(monkeypatch, Policy)
    assert (await offer(setup, shipped)).status_code == 200
    assert rounds
    assert offers
    assert threading.current_thread() not in {*rounds, *offers}


async def test_what_is_recorded_is_none_of_the_objects_that_a_pass_looks_at(setup: Setup) -> None:
    """It may have a megabyte and changes every round; its owner takes it away with the job."""
    await online(setup)
    await play(setup, range(1, 24))
    kept = [setup.kube.objects[replace(EXPERIENCE, name=f"digits-{one}")] for one in RECORDS]
    selector = names.job_selector("digits")
    listed = await setup.kube.listed(("v1", "ConfigMap"), "lab", labels=selector)
    assert [one["metadata"]["name"] for one in listed.items] == ["digits-settings"]
    for one in kept:
        assert one["metadata"]["ownerReferences"][0]["uid"] == setup.uid
        assert one["metadata"]["labels"][names.RECORD_LABEL] == "digits"


async def test_rounds_that_are_too_large_to_record_start_no_trainer_and_one_event_says_why(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "MAX_BYTES", 2_100)
    await online(setup)
    await play(setup, range(1, 45))
    assert [ref.name for ref in setup.kube.objects if ref.kind == "Job"] == []
    assert EXPERIENCE not in setup.kube.objects
    (why,) = told(setup, "RoundTooLarge")
    assert why.startswith("the policy does not learn: a round of 2 devices takes more than")


async def test_what_cannot_be_recorded_does_not_pile_up(setup: Setup) -> None:
    await online(setup)
    setup.kube.fail = failing("create", Unavailable("etcd is full"), "digits-experience")
    await play(setup, range(1, 6))
    learning = setup.planner.learning
    assert len(learning._jobs[setup.uid].fresh) == 0  # among the recorded rounds, of which 100 stay
    assert learning.has_news(KEY)
    setup.planner.learning.held.forget(setup.uid)
    setup.kube.fail = failing("get", Unavailable("etcd is down"), "digits-experience")
    await play(setup, range(6, 9 + records.MAX_ROUNDS))
    assert len(learning._jobs[setup.uid].fresh) == records.MAX_ROUNDS
    setup.kube.fail = lambda verb, name: None
    last = 9 + records.MAX_ROUNDS
    await play(setup, range(last, last + 1))
    content = setup.kube.objects[EXPERIENCE]["binaryData"][names.EXPERIENCE_FILE]
    rounds = Experience.from_bytes(base64.b64decode(content))
    assert [record.round for record in rounds.records] == list(range(9, last))
    assert not learning.has_news(KEY)


async def test_what_a_job_learns_from_is_forgotten_with_it(setup: Setup) -> None:
    await online(setup)
    await play(setup, range(1, 4))
    assert setup.uid in setup.planner.learning._jobs
    setup.kube.remove(job_ref("lab", "digits"))
    await setup.planner.runtime.pass_now(KEY)
    assert setup.planner.learning._jobs == {}


async def test_an_offer_for_a_job_that_was_never_planned_leaves_nothing(setup: Setup) -> None:
    """Somebody may offer one for each of many jobs that he makes and deletes."""
    await online(setup)
    await play(setup, range(1, 4))
    setup.planner.learning.forget(setup.uid)  # as if the operator had begun anew
    assert (await offer(setup, read_policy(SHIPPED))).status_code == 200
    assert setup.planner.learning._jobs == {}


async def test_rounds_that_are_not_held_any_more_are_read_again(setup: Setup) -> None:
    await online(setup)
    for number in range(1, 23):
        await play(setup, range(number, number + 1))
        setup.planner.learning.held.forget(setup.uid)  # other jobs had rounds meanwhile
    content = setup.kube.objects[EXPERIENCE]["binaryData"][names.EXPERIENCE_FILE]
    rounds = Experience.from_bytes(base64.b64decode(content))
    assert [record.round for record in rounds.records] == list(range(2, 22))
    assert told(setup, "TrainerStarted") == ["digits-trainer-21 learns from the last 20 rounds"]


async def test_of_the_rounds_of_many_jobs_some_are_held(setup: Setup) -> None:
    """Of a file of 0.9 MB Python makes 11; those that were used last stay."""
    await online(setup)
    await play(setup, range(1, 6))
    of_a_job = setup.planner.learning.held.get(setup.uid)
    assert of_a_job is not None
    assert devices(of_a_job) == 6
    held = Experiences(most=20)
    for uid in "abc":
        held.keep(uid, of_a_job)
    held.get("a")
    held.keep("d", of_a_job)
    assert [uid for uid in "abcd" if held.get(uid) is not None] == ["a", "c", "d"]
    small = Experiences(most=5)
    small.keep("large", of_a_job)
    assert small.get("large") is of_a_job, "the job that has its turn needs it"
    small.keep("other", of_a_job)
    assert small.get("large") is None


def test_to_judge_a_policy_takes_little_beside_the_rounds() -> None:
    """The largest file: 100 rounds of 80 devices with the longest energy curves."""
    rounds = largest_experience()
    policy = read_policy(SHIPPED)
    judge(rounds, has=policy, offered=policy, begun=policy)  # what is loaded once
    tracemalloc.start()
    try:
        judge(rounds, has=policy, offered=policy, begun=policy)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 20 << 20


def largest_experience() -> Experience:
    devices, of_a_round = 8000, 80
    rounds = [(number, 1.7e9 + 10 * number, 5.0, 0.1, of_a_round) for number in range(1, 101)]
    tensors: dict[str, NDArray[Any]] = {
        "rounds": np.array(rounds, np.float64),
        "client": np.tile(np.arange(of_a_round), 100).astype(np.int32),
        "curve": np.zeros(devices, np.int32),
        "curves": np.ones((1, len(records.OF_CURVE) + 2 * records.MAX_LINES)),
        "slots": np.ones((devices, 16), np.float32),
        **dict.fromkeys(records._OF_DEVICE, np.ones(devices, np.float32)),
    }
    clients = [f"d-{number}" for number in range(of_a_round)]
    told = {records.FORMAT: json.dumps({"version": records.VERSION, "clients": clients})}
    return Experience.from_bytes(save(tensors, told))


async def test_what_a_job_learns_from_is_forgotten_when_it_ends(setup: Setup) -> None:
    await online(setup)
    await play(setup, range(1, 4))
    assert (await setup.http.post(OUTCOME, json=DONE)).status_code == 200
    assert setup.planner.learning._jobs == {}


async def test_a_job_begins_with_nothing_that_an_earlier_one_of_its_name_left(
    setup: Setup,
) -> None:
    await online(setup)
    await play(setup, range(1, 24))
    for one in RECORDS:
        stored = setup.kube.objects[replace(EXPERIENCE, name=f"digits-{one}")]
        stored["metadata"]["ownerReferences"][0]["uid"] = "earlier"
    policies = Policies(setup.kube)
    learning = PolicyLearning(setup.deps, policies)
    assert await policies.learnt(KEY, None, uid="earlier") is not None
    assert await policies.learnt(KEY, None, uid=setup.uid) is None
    anew = replace(setup.planner, reports=Reports(), policies=policies, learning=learning)
    async with client(anew) as http:
        await play(Setup(setup.kube, setup.deps, anew, setup.probes, http), range(24, 28))
    content = setup.kube.objects[EXPERIENCE]["binaryData"][names.EXPERIENCE_FILE]
    rounds = Experience.from_bytes(base64.b64decode(content))
    assert [record.round for record in rounds.records] == [24, 25, 26]
