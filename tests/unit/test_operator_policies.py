"""Where trained policies come from, and what happens to one that cannot be used."""

import pickle
import threading
from pathlib import Path

import pytest

from lockstep_allocator.policy import SHIPPED, Policy, read_policy
from lockstep_operator.core.model import Manifest
from lockstep_operator.errors import PolicyUnavailable, Unavailable
from lockstep_operator.policies import BEGAN_WITH, Policies
from tests.support.kube import (
    KEY,
    failing,
)
from tests.support.planner import (
    PLAN,
    Setup,
    allocated,
    policy_map,
    request,
)
from tests.support.threads import threads_of


@pytest.mark.parametrize(
    ("policy", "reference", "message"),
    [
        (None, "mine", "there is no ConfigMap mine"),
        (policy_map(b"garbage"), "mine", "ConfigMap mine is no policy file"),
        (policy_map(b"", other=""), "mine", "has 2 entries of binaryData instead of one"),
        (None, "volume/mine", "the operator has no volume of policies"),
    ],
)
async def test_a_policy_that_cannot_be_used_is_replaced_with_one_event(
    setup: Setup, policy: Manifest | None, reference: str, message: str
) -> None:
    if policy is not None:
        setup.kube.put(policy)
    allocated(setup, policy="ppo", policyRef=reference)
    for round in (1, 2):
        answer = await setup.http.post(PLAN, json=request(round))
        assert answer.status_code == 200
    told = [event for event in setup.kube.events if event["reason"] == "PolicyUnavailable"]
    assert len(told) == 1
    assert told[0]["type"] == "Warning"
    assert message in told[0]["message"]
    assert told[0]["message"].startswith("policy equalize stands in for ppo")


async def test_of_a_policys_config_map_no_content_and_no_label_is_kept(setup: Setup) -> None:
    filled = policy_map(SHIPPED.read_bytes())
    filled["metadata"]["labels"] = {f"l{i}": "v" for i in range(10_000)}
    setup.kube.put(filled)
    policies = Policies(setup.kube)
    await policies.of(KEY, "mine")
    assert len(pickle.dumps(policies._objects)) < 2000


@pytest.mark.parametrize("reference", [None, "mine", "volume/mine.safetensors"])
async def test_policies_come_from_the_package_a_config_map_or_a_volume(
    setup: Setup, reference: str | None, tmp_path: Path
) -> None:
    setup.kube.put(policy_map(SHIPPED.read_bytes()))
    (tmp_path / "mine.safetensors").write_bytes(SHIPPED.read_bytes())
    policies = Policies(setup.kube, tmp_path)
    found = await policies.of(KEY, reference)
    assert found.training == read_policy(SHIPPED).training
    setup.kube.fail = failing("get", Unavailable("it was read before"))
    assert await policies.of(KEY, reference) is found  # read once


@pytest.mark.parametrize("reference", ["mine", "volume/mine.safetensors"])
async def test_policies_are_read_beside_the_event_loop(
    setup: Setup, reference: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.kube.put(policy_map(SHIPPED.read_bytes()))
    (tmp_path / "mine.safetensors").write_bytes(SHIPPED.read_bytes())
    where = threads_of(monkeypatch, Policy)
    await Policies(setup.kube, tmp_path).of(KEY, reference)
    assert len(where) == 1
    assert threading.current_thread() not in where


async def test_what_another_policy_learnt_does_not_matter_even_if_it_is_damaged(
    setup: Setup,
) -> None:
    damaged = policy_map(b"garbage")
    damaged["metadata"] |= {"name": "digits-policy", "ownerReferences": [setup.owner]}
    setup.kube.put({**damaged, "data": {BEGAN_WITH: "other"}})
    assert await setup.planner.policies.learnt(KEY, None, uid=setup.uid) is None
    with pytest.raises(PolicyUnavailable, match="is no policy file"):
        await setup.planner.policies.learnt(KEY, "other", uid=setup.uid)


async def test_of_many_policies_those_that_are_asked_for_stay_read(setup: Setup) -> None:
    read: list[str] = []

    def count(verb: str, name: str) -> None:
        if verb == "get" and name.startswith("mine"):
            read.append(name)

    for number in range(70):
        stored = policy_map(SHIPPED.read_bytes())
        stored["metadata"]["name"] = f"mine-{number}"
        setup.kube.put(stored)
    setup.kube.fail = count
    policies = Policies(setup.kube)
    first = await policies.of(KEY, "mine-0")
    for number in range(1, 70):
        await policies.of(KEY, f"mine-{number}")
        assert await policies.of(KEY, "mine-0") is first
    assert read.count("mine-0") == 1
    await policies.of(KEY, "mine-1")  # of 70 the oldest had to go
    assert read.count("mine-1") == 2
    assert len(policies._objects) == len(policies._read) == 16, "each may have a megabyte"
