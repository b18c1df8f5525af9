"""A planner over the in-memory Kubernetes, and what its callers send."""

import base64
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import httpx2
import numpy as np

from lockstep_allocator.policy import Policy
from lockstep_api import names
from lockstep_operator.actuate import Resizer
from lockstep_operator.auth import Authenticator
from lockstep_operator.authority import Signing
from lockstep_operator.core.certificates import Authority
from lockstep_operator.core.model import Manifest, ObjectRef
from lockstep_operator.core.placement import Placement, pod_sets
from lockstep_operator.core.spec import parse_spec
from lockstep_operator.core.state import JobState
from lockstep_operator.core.status import written_placement
from lockstep_operator.errors import InvalidSpec
from lockstep_operator.issuer import Issuer
from lockstep_operator.kube import job_ref
from lockstep_operator.labelling import Labelling
from lockstep_operator.planner import Planner
from lockstep_operator.policies import Policies
from lockstep_operator.policy_learning import PolicyLearning
from lockstep_operator.probes import Probes
from lockstep_operator.reconcile import Deps, reconcile
from lockstep_operator.routes import planner_app
from lockstep_operator.runtime import Runtime
from tests.support.kube import (
    KEY,
    FakeKube,
    cluster_with,
    device_pod,
    job_body,
    make_deps,
    owner_of,
)

PLAN = names.PLAN_ROUTE.format(namespace="lab", job="digits")
OUTCOME = names.OUTCOME_ROUTE.format(namespace="lab", job="digits")
CERTIFICATE = names.CERTIFICATE_ROUTE.format(namespace="lab", job="digits")
POLICY = names.POLICY_ROUTE.format(namespace="lab", job="digits")
CLOUD_USER = "system:serviceaccount:lab:digits-cloud"
POD_0, POD_1 = "digits-device-fast-0", "digits-device-fast-1"
DONE = {"result": "RoundsCompleted", "message": "3 of 3 rounds"}
BOTH = ("fast-0", "fast-1")
EXPERIENCE = ObjectRef("v1", "ConfigMap", "lab", "digits-experience")


@dataclass
class Setup:
    """A planner, its cluster and a client with the cloud pod's token."""

    kube: FakeKube
    deps: Deps
    planner: Planner
    probes: Probes
    http: httpx2.AsyncClient

    @property
    def uid(self) -> str:
        return str(self.kube.objects[job_ref("lab", "digits")]["metadata"]["uid"])

    @property
    def owner(self) -> Manifest:
        """The owner reference of what belongs to the job."""
        return owner_of(self.kube.objects[job_ref("lab", "digits")])

    @property
    def report(self) -> JobState | None:
        return self.deps.sources.reports.get(self.uid)

    def sample(self, name: str) -> float | None:
        return self.deps.metrics.registry.get_sample_value(name)


def client(planner: Planner, *, token: str | None = "cloud") -> httpx2.AsyncClient:
    """What the pod that has this token sends."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    transport = httpx2.ASGITransport(app=planner_app(planner))
    return httpx2.AsyncClient(transport=transport, base_url="http://planner", headers=headers)


def signing_of(authority: Authority, deps: Deps) -> Signing:
    """What makes certificates that count from now on."""
    return Signing(authority, deps.metrics, lambda: datetime.now(UTC), time.monotonic)


def placed(job: Manifest) -> Manifest:
    """The job with a status that says where its pods are, unless it says so; a spec that cannot be
    read has none."""
    try:
        sets = pod_sets(parse_spec(job["spec"]))
    except InvalidSpec:
        return job
    placement = written_placement(Placement(dict.fromkeys(sets, ("node",))))
    told = [part.model_dump(by_alias=True) for part in placement]
    return {**job, "status": {"placement": told} | job.get("status", {})}


@asynccontextmanager
async def planner_of_a_job(
    *, job: Manifest | None = None, authority: Authority | None = None
) -> AsyncIterator[Setup]:
    """A job with two device pods, and a planner that nobody watches."""
    kube = cluster_with(placed(job or job_body()), device_pod(POD_0), device_pod(POD_1))
    owner = owner_of(kube.objects[job_ref("lab", "digits")])
    for role in ("cloud", "device", "trainer"):
        meta: Manifest = {"name": f"digits-{role}", "namespace": "lab", "ownerReferences": [owner]}
        meta["labels"] = {names.JOB_LABEL: KEY.name}
        kube.put({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": meta})
        kube.account(role, f"digits-{role}")
    deps = make_deps(kube)
    deps = replace(deps, settings=replace(deps.settings, authority=authority))
    runtime = Runtime(partial(reconcile, deps=deps), deps.metrics, resync_s=100)
    policies = Policies(kube)
    learning = PolicyLearning(deps, policies)
    labelling = Labelling(kube)
    for gone in (learning.forget, labelling.forget, deps.metrics.of_jobs.forget):
        deps.sources.reports.when_gone(gone)
    planner = Planner(
        deps=deps,
        reports=deps.sources.reports,
        runtime=runtime,
        resizer=Resizer(kube, deps.metrics, wait_s=0.05),
        authenticator=Authenticator(kube),
        issuer=Issuer(kube),
        prometheus=None,
        policies=policies,
        learning=learning,
        labelling=labelling,
        signing=None if authority is None else signing_of(authority, deps),
        leads=lambda namespace: True,
    )
    probes = Probes(deps, runtime, lambda: True, lambda: True, resync_s=100, leads=lambda: True)
    async with client(planner) as http:
        yield Setup(kube, deps, planner, probes, http)
    await runtime.shutdown()


def request(round: int = 1, *clients: str, report: Manifest | None = None) -> Manifest:
    registered = [
        {"client": name, "incarnation": "a", "examples": 10, "labelHistogram": []}
        for name in clients or ("fast-0", "fast-1")
    ]
    return {"round": round, "clients": registered, "report": report}


def report(round: int, ghz: float, *, clients: tuple[str, ...] = ("fast-0",)) -> Manifest:
    energy: Manifest = {"model": 1.0}
    update: Manifest = {
        "round": round, "examples": 10, "steps": 10, "trainLoss": 1.0,
        "downloadSeconds": 0.1, "computeSeconds": 1.0, "cpuSeconds": 0.5, "throttledSeconds": 0.0,
        "frequencyGHz": ghz, "energyJoules": energy,
    }  # fmt: skip
    arrived = [
        {
            "update": {"client": client, **update}, "arrivedSeconds": 1.2, "uploadSeconds": 0.1,
            "bytes": 100,
        }
        for client in clients
    ]  # fmt: skip
    return {
        "round": round, "planned": True, "seconds": 1.3, "elapsedSeconds": 1.3,
        "clients": arrived, "accuracy": 0.5, "loss": 1.0, "energyJoules": energy,
    }  # fmt: skip


def allocated(setup: Setup, **allocation: Any) -> None:
    """The job gets another allocation."""
    body = setup.kube.objects[job_ref("lab", "digits")]
    setup.kube.put({**body, "spec": job_body(allocation=allocation)["spec"]})


def private(setup: Setup, **allocation: Any) -> None:
    """The job hides its clients, and gets another allocation."""
    body = setup.kube.objects[job_ref("lab", "digits")]
    hidden = {"clipNorm": 1.0, "noiseMultiplier": 2.0}
    spec = job_body(allocation=allocation, privacy=hidden)["spec"]
    setup.kube.put({**body, "spec": spec})


def policy_map(content: bytes, **more: str) -> Manifest:
    data = {"policy.safetensors": base64.b64encode(content).decode(), **more}
    meta = {"name": "mine", "namespace": "lab", "resourceVersion": "1"}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "binaryData": data}


async def play(setup: Setup, rounds: range) -> None:
    """Rounds of both devices, as their cloud pod would report them."""
    for round in rounds:
        done = report(round - 1, 2.0, clients=BOTH) if round > 1 else None
        answer = await setup.http.post(PLAN, json=request(round, report=done))
        assert answer.status_code == 200


async def online(setup: Setup, **allocation: Any) -> None:
    """The job learns, and has a place."""
    allocated(setup, policy="ppo", online=True, **allocation)
    await setup.planner.runtime.pass_now(KEY)


async def offer(setup: Setup, policy: Policy, token: str = "trainer") -> httpx2.Response:
    headers = {"authorization": f"Bearer {token}"}
    return await setup.http.post(POLICY, content=policy.to_bytes(), headers=headers)


def slow(policy: Policy) -> Policy:
    """One that lets every device compute as long as it may."""
    last = {"leave.2.bias": np.array([9, -9, 0], np.float32)}
    return replace(policy, weights={**policy.weights, **last})


def told(setup: Setup, reason: str) -> list[str]:
    return [event["message"] for event in setup.kube.events if event["reason"] == reason]
