"""`lockstep explain-plan`: of a running round by the status, of finished ones by the history."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from lockstep_api.records import RoundRecord, RoundSummary
from lockstep_api.status import FederatedJobStatus
from lockstep_operator.core.state import JobState
from lockstep_operator.core.status import newest_of, with_progress
from tests.support.apiserver import running
from tests.support.cli import Lockstep
from tests.support.recorded import Recorded, federated, plain, split
from tests.support.volumes import Kubelet, mounted, with_cloud_pod, with_volume

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def api() -> Iterator[Kubelet]:
    """An apiserver whose pods start."""
    with running(Kubelet()) as served:
        assert isinstance(served, Kubelet)
        yield served


def stored(api: Kubelet, of: Recorded, monkeypatch: pytest.MonkeyPatch, **status: Any) -> None:
    """The job in the cluster, with its files on the volume."""
    body = with_volume(api, of.name, **plain(of.spec))
    api.put("federatedjobs", {**body, "status": {"phase": "Completed"} | status})
    lines = "".join(f"{one.to_json()}\n" for one in of.records)
    clients = of.clients.to_json().encode()
    mounted(monkeypatch, history__jsonl=lines.encode(), clients__json=clients)


def test_the_newest_round_is_explained_device_by_device(
    api: Kubelet, lockstep: Lockstep, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = federated()
    stored(api, of, monkeypatch)
    ran = lockstep("explain-plan", of.name)
    assert ran.code == 0, ran.err
    newest = of.records[-1]
    assert newest.plan is not None
    assert ran.lines[0] == f"Round {newest.round}: policy equalize, energyWeight 0.1 s/J"
    rows = {line.split()[0]: line.split() for line in ran.lines if line[:4] in {"fast", "slow"}}
    for asked in newest.plan.participants:
        assert asked.client in rows
    table = [line for line in ran.lines if line.startswith("DEVICE")]
    assert table == [
        "DEVICE   GHZ    STEPS   MBIT/S   COMPUTE   AWAY      IN AFTER   BOUND BY"
    ] or (table[0].split()[:3] == ["DEVICE", "GHZ", "STEPS"])
    assert [line for line in ran.lines if line.startswith("all at maxGHz")]


def test_a_round_is_explained_as_json_with_its_alternatives(
    api: Kubelet, lockstep: Lockstep, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = federated()
    stored(api, of, monkeypatch)
    ran = lockstep("explain-plan", of.name, "--round", "4", "-o", "json")
    found = json.loads(ran.out)
    assert (found["round"], found["policy"]) == (4, "equalize")
    plan = of.records[3].plan
    assert plan is not None
    told = {one["client"]: one["frequency_ghz"] for one in found["clients"]}
    assert told == {one.client: one.frequency_ghz for one in plan.participants}
    assert {one["method"] for one in found["alternatives"]} == {"planned", "equalize", "maximum"}
    assert found["happened"]["seconds"] == of.records[3].seconds


def test_one_device_has_all_its_figures(
    api: Kubelet, lockstep: Lockstep, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = federated()
    stored(api, of, monkeypatch)
    ran = lockstep("explain-plan", of.name, "--round", "2", "--device", "slow-0")
    labels = [line.split("  ")[0] for line in ran.lines]
    assert labels == ["device", "asked", "steps", "bound by", "counts on", "expected", "came",
                      "instead", "instead"]  # fmt: skip
    (only,) = json.loads(lockstep("explain-plan", of.name, "--device", "slow-0", "-o", "json").out)[
        "clients"
    ]
    assert only["client"] == "slow-0"


def test_clusters_are_told_with_what_other_edges_would_have_cost(
    api: Kubelet, lockstep: Lockstep, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = split()
    stored(api, of, monkeypatch)
    ran = lockstep("explain-plan", of.name)
    assert ran.code == 0, ran.err
    plan = of.records[-1].plan
    assert plan is not None
    head = next(place for place, line in enumerate(ran.lines) if line.startswith("CLUSTER"))
    told = ran.lines[head + 1 : head + 1 + len(plan.clusters)]
    assert [line.split()[:2] for line in told] == [[c.cluster, c.edge] for c in plan.clusters]
    for cluster, line in zip(plan.clusters, told, strict=True):
        assert all(offer.edge in line for offer in cluster.offers)


def test_a_running_round_is_explained_without_the_volume(
    api: Kubelet, lockstep: Lockstep, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = federated()
    plan = of.records[-1].plan
    assert plan is not None
    heard = newest_of(JobState(plan=plan))
    status = with_progress(FederatedJobStatus(), heard, spec=of.spec, now=NOW)
    shown = json.loads(status.to_json())
    stored(api, of, monkeypatch, **{**shown, "phase": "Running", "round": plan.round - 1})
    ran = lockstep("explain-plan", of.name)
    assert ran.code == 0, ran.err
    assert "it runs now" in ran.lines
    assert not [body for body in api.bodies if body.get("kind") == "Pod"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--round", "1"], "the plan of round 1 of job digits is not kept any more: kept are"),
        (["--round", "99"], "job digits has no round 99: its newest is 6"),
        (["--device", "fast-9"], "fast-9 is not in round 6: there are"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(
    api: Kubelet,
    lockstep: Lockstep,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    said: str,
) -> None:
    of = federated()
    body = with_volume(api, of.name, **plain(of.spec))
    api.put("federatedjobs", body)
    lines = [summary(of.records[0]).to_json(), *(one.to_json() for one in of.records[1:])]
    mounted(monkeypatch, history__jsonl="\n".join(lines).encode())
    with_cloud_pod(api, of.name)
    ran = lockstep("explain-plan", of.name, *words)
    assert ran.code == 5
    assert said in ran.err


def summary(one: RoundRecord) -> RoundSummary:
    return RoundSummary(
        round=one.round,
        planned=one.planned,
        seconds=one.seconds,
        elapsed_seconds=one.elapsed_seconds,
        updates=len(one.clients),
        missing=len(one.lost),
        refused={},
        energy_joules=one.energy_joules,
    )


def test_a_job_before_its_first_round_is_told_so(
    api: Kubelet, lockstep: Lockstep, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = federated()
    api.put("federatedjobs", {**with_volume(api, of.name, **plain(of.spec)), "status": {}})
    mounted(monkeypatch)
    with_cloud_pod(api, of.name)
    ran = lockstep("explain-plan", of.name)
    assert ran.code == 5
    assert "job digits has no round yet" in ran.err
