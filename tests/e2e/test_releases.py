"""Leases of several releases on a real Kubernetes: what counts is what their accounts may do."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from lockstep_operator.core.election import Timing, lease_manifest
from lockstep_operator.core.model import Manifest
from lockstep_operator.core.scope import scope_metadata
from lockstep_operator.kube import ApiKube
from lockstep_operator.login import load_configuration
from lockstep_operator.rivals import Rivals
from tests.cluster import api
from tests.e2e.polled import wait_until_allowed
from tests.e2e.running import a_namespace

pytestmark = pytest.mark.cluster

ACCOUNT = "lockstep-operator"


def lease(namespace: str, *claimed: str) -> Manifest:
    """One that is held."""
    made = lease_manifest(
        "lockstep-operator", namespace, me="me", now=datetime.now(UTC), before=None, timing=Timing()
    )
    made["metadata"] |= scope_metadata(claimed, account=ACCOUNT)
    return made


def mine() -> Manifest:
    """Of an operator that is older than any other here."""
    made = lease("away")
    made["metadata"]["creationTimestamp"] = "2000-01-01T00:00:00Z"
    return made


def write(made: Manifest, *words: str) -> None:
    api.kubectl("create", *words, "-f", "-", stdin=json.dumps(made))


def let_work(home: str, *, within: str) -> None:
    """What the chart gives the account of a release."""
    rules = [
        {"apiGroups": ["lockstep.dev"], "resources": ["federatedjobs/status"], "verbs": ["patch"]}
    ]
    group = "rbac.authorization.k8s.io"
    meta = {"name": "op", "namespace": within}
    named = {"apiVersion": f"{group}/v1", "metadata": meta}
    write(named | {"kind": "Role", "rules": rules})
    role = {"apiGroup": group, "kind": "Role", "name": "op"}
    who = {"kind": "ServiceAccount", "namespace": home, "name": ACCOUNT}
    write(named | {"kind": "RoleBinding", "roleRef": role, "subjects": [who]})
    user = f"system:serviceaccount:{home}:{ACCOUNT}"
    wait_until_allowed(user, "patch", "federatedjobs", "--subresource=status", within=within)


@pytest.fixture
async def rivals(namespace: str) -> AsyncIterator[Rivals]:
    kube = ApiKube(await load_configuration(str(api.kubeconfig()), None))
    yield Rivals(kube, Timing())
    await kube.close()


async def test_who_has_edit_in_one_namespace_takes_no_other_from_the_operator(
    namespace: str, rivals: Rivals
) -> None:
    who = f"mallory-{namespace}"
    words = ("rolebinding", "mallory", "--clusterrole=edit", f"--user={who}")
    api.kubectl("-n", namespace, "create", *words)
    wait_until_allowed(who, "create", "leases", within=namespace)
    with a_namespace() as victim:
        let_work("lockstep-system", within=victim)
        write(lease(namespace, victim, namespace), f"--as={who}")
        await rivals.look(mine(), now_s=0.0)
        assert rivals.serves(victim)
        assert rivals.serves(namespace)


async def test_a_release_has_the_namespaces_that_it_may_look_after(
    namespace: str, rivals: Rivals
) -> None:
    with a_namespace() as lab, a_namespace() as other:
        let_work(namespace, within=lab)
        write(lease(namespace, lab, other))
        await rivals.look(mine(), now_s=0.0)
        assert not rivals.serves(lab)
        assert rivals.serves(other)
