"""Every row of the table of rights is needed: lives of jobs and of their operator use them all."""

import copy
from collections.abc import Iterator

from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import FederatedJobStatus
from lockstep_api.tiers import ClusterPlan
from lockstep_operator import rights
from lockstep_operator.authority import kept_authority
from lockstep_operator.cluster_state import ClusterState
from lockstep_operator.core.election import LEASE_API, Timing
from lockstep_operator.core.manifests import HASH_ANNOTATION
from lockstep_operator.core.model import JobView, Manifest
from lockstep_operator.core.scope import scope_metadata
from lockstep_operator.election import Elector
from lockstep_operator.issuer import DISCOVERY, JWKS, Issuer
from lockstep_operator.kube import KINDS, job_ref, path_of
from lockstep_operator.labelling import Labelling
from lockstep_operator.observe import read_job
from lockstep_operator.owned import put
from lockstep_operator.reconcile import reconcile
from lockstep_operator.rights import Called
from tests.support.kube import (
    KEY,
    FakeKube,
    cluster_with,
    device_pod,
    job_body,
    make_deps,
    owner_of,
)
from tests.support.planner import Setup, online, play

EDGES: Manifest = {"mode": "hierarchical", "edges": [{"name": "near", "replicas": 2}]}
KEY_OF_TOKENS = {"kty": "RSA", "kid": "a", "n": "AQAB", "e": "AQAB", "alg": "RS256", "use": "sig"}
TRACED = {"name": "fast", "replicas": 2, "cpuAtMax": "400m", "uplink": {"trace": "street"}}
STREET: Manifest = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "street", "namespace": "lab", "labels": {"lockstep.dev/traces": "true"}},
    "data": {"a.csv": "0,2\n"},
}
_VERBS = {
    "metadata": "get", "apply": "patch", "replace": "update", "status": "patch",
    "resize": "patch", "label": "patch",
}  # fmt: skip
_PARTS = {"status": "/status", "resize": "/resize"}


def used(kube: FakeKube) -> Iterator[Called]:
    """What reached it, as roles see it."""
    groups = {kind[1]: rights.called("get", path_of(kind)) for kind in KINDS}
    for verb, kind in kube.calls:
        if kind.startswith("/"):
            yield Called(verb, "", kind)
        elif (of := groups.get(kind)) is not None:
            yield Called(_VERBS.get(verb, verb), of.group, of.resource + _PARTS.get(verb, ""))
    if kube.events:
        yield Called("create", "", "events")
    if kube.reviews:
        yield Called("create", "authentication.k8s.io", "tokenreviews")


def followed() -> Iterator[Called]:
    """Whatever is followed is listed and watched."""
    state = ClusterState(FakeKube())
    sources = [one.source for one in state.all_kept()]
    sources += [one.source for one in state.all_complaints()]
    for source in sources:
        for verb in ("list", "watch"):
            yield rights.called(verb, path_of(source.kind))


def children_of(kube: FakeKube) -> list[Manifest]:
    owned = (one for one in kube.objects.values() if one["metadata"].get("ownerReferences"))
    return [copy.deepcopy(one) for one in owned]


async def lived(body: Manifest) -> list[FakeKube]:
    """A job that starts, whose children are brought to another form, and one that comes in the
    place of another with the same children."""
    kube = cluster_with(body, STREET)
    deps = make_deps(kube)
    await reconcile(KEY, deps)
    for one in children_of(kube):
        one["metadata"].setdefault("annotations", {})[HASH_ANNOTATION] = "of an older operator"
        kube.put(one)
    await reconcile(KEY, deps)
    earlier = owner_of({"metadata": {"name": KEY.name, "uid": "earlier"}})
    left = [one | {"metadata": one["metadata"] | {"ownerReferences": [earlier]}}
            for one in children_of(kube)]  # fmt: skip
    after = cluster_with(body, STREET, *left)
    await reconcile(KEY, make_deps(after))
    return [kube, after]


async def ended() -> FakeKube:
    """A job whose time is over."""
    status = {"phase": "Completed", "completionTime": "2020-01-01T00:00:00Z"}
    kube = cluster_with(job_body(ttlSecondsAfterFinished=1) | {"status": status})
    await reconcile(KEY, make_deps(kube))
    assert job_ref(KEY.namespace, KEY.name) not in kube.objects
    return kube


async def learnt(setup: Setup) -> FakeKube:
    """Rounds of a job that learns; its trainer is begun once more by a successor, which does not
    know of it, and stopped as the job is suspended."""
    await online(setup)
    await play(setup, range(1, 23))
    job = await read_job(KEY, setup.deps.sources)
    assert job is not None
    trainer = next(one for ref, one in setup.kube.objects.items() if ref.kind == "Job")
    await put(job, copy.deepcopy(trainer), kube=setup.kube)
    body = setup.kube.objects[job_ref(KEY.namespace, KEY.name)]
    setup.kube.put({**body, "spec": {**body["spec"], "suspend": True}})
    await reconcile(KEY, setup.deps)
    assert not any(ref.kind == "Job" for ref in setup.kube.objects)
    return setup.kube


async def labelled() -> FakeKube:
    """A job whose devices are in clusters."""
    kube = cluster_with(None, device_pod("digits-device-fast-0"))
    spec = FederatedJobSpec.model_validate(job_body(**EDGES)["spec"])
    job = JobView(KEY, "uid", 1, spec, None, FederatedJobStatus(), 0.0)
    cluster = ClusterPlan(cluster="c0", edge="near-0", clients=["fast-0"])
    await Labelling(kube).bring(job, spec, clusters=[cluster])
    return kube


async def led() -> FakeKube:
    """An operator that takes its lease beside another's, reads what it signs with and who signs
    tokens, and ends."""
    kube = FakeKube(public={DISCOVERY: {"issuer": "https://x"}, JWKS: {"keys": [KEY_OF_TOKENS]}})
    beside = {"name": "lockstep-operator", "namespace": "b"} | scope_metadata(["x"], account="op")
    held = {"holderIdentity": "other"}
    kube.put({"apiVersion": LEASE_API, "kind": "Lease", "metadata": beside, "spec": held})
    elector = Elector(kube, "lab", "lockstep-operator", "me", Timing(0.6, 0.3, 0.01))
    await elector.acquire()
    await elector.release()
    await kept_authority(kube, "lab")
    await Issuer(kube).keys()
    return kube


async def test_every_right_is_used_and_no_other_is_needed(setup: Setup) -> None:
    found = set(followed())
    for body in (job_body(devices=[TRACED]), job_body(**EDGES)):
        for kube in await lived(body):
            found |= set(used(kube))
    for kube in (await ended(), await learnt(setup), await labelled(), await led()):
        found |= set(used(kube))
    assert found == set(rights.calls(right for right in rights.RIGHTS if right.called))
