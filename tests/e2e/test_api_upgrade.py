"""What becomes of stored jobs when the CRD is replaced by one with more rules.

On a copy of the CRD in a group of its own, so that no other test sees the older one.
"""

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lockstep_operator.crd import crd
from tests.cluster import api
from tests.e2e.polled import is_done, until, wait_until_served
from tests.support.patience import PATIENCE_S

pytestmark = pytest.mark.cluster

Json = dict[str, Any]

GROUP = "upgrade.lockstep.dev"
CRD_NAME = f"federatedjobs.{GROUP}"
ALONE = "participation: quorum and roundDeadlineSeconds work only together"
PATCH = ("patch", CRD_NAME, "job", "--type=merge", "-p")


def copied_crd() -> Json:
    """The CRD as it is, in another group."""
    made: Json = json.loads(json.dumps(crd()))
    made["metadata"]["name"] = CRD_NAME
    made["spec"]["group"] = GROUP
    made["spec"]["names"] |= {"shortNames": [], "categories": []}
    return made


def before_the_rule() -> Json:
    """The CRD of a version that did not look at quorum and deadline together."""
    made = copied_crd()
    root = made["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    del root["properties"]["spec"]["properties"]["participation"]["x-kubernetes-validations"]
    return made


def job(name: str) -> str:
    spec = {
        "suspend": True,
        "model": {"name": "mlp"},
        "data": {"name": "fashion-mnist"},
        "training": {"rounds": 3},
        "devices": [{"name": "all"}],
        "participation": {"quorum": 1},
    }
    kind = {"apiVersion": f"{GROUP}/v1alpha1", "kind": "FederatedJob"}
    return json.dumps({**kind, "metadata": {"name": name}, "spec": spec})


def kubectl(*words: str, stdin: str | None = None) -> tuple[int, str]:
    """Exit code and all that kubectl said: here its errors are the result."""
    done = subprocess.run(
        [str(api.tools() / "kubectl"), f"--kubeconfig={api.kubeconfig()}", *words],
        input=stdin, capture_output=True, text=True, check=False, timeout=PATIENCE_S,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


def replace_crd(manifest: Json) -> None:
    api.kubectl(
        "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=json.dumps(manifest)
    )
    wait_until_served(CRD_NAME)


@pytest.fixture
def stored(cluster: Path) -> Iterator[str]:
    """The namespace of a job with a quorum alone, stored before there was a rule against it."""
    name = f"test-upgrade-{time.time_ns() % 10**8}"
    api.kubectl("create", "namespace", name)
    replace_crd(before_the_rule())
    api.kubectl("-n", name, "create", "-f", "-", stdin=job("job"))
    yield name
    api.kubectl("delete", "namespace", name, "--wait=false")
    api.kubectl("delete", "crd", CRD_NAME)


def wait_until_refused(namespace: str) -> str:
    """What the apiserver says to a new job once it goes by the new rule."""
    create = ("-n", namespace, "create", "--dry-run=server", "-f", "-")
    until(lambda: not is_done(*create, stdin=job("new")), "the rule is not in force")
    return kubectl(*create, stdin=job("new"))[1]


def test_a_job_that_a_later_rule_would_refuse_can_still_be_changed(stored: str) -> None:
    replace_crd(copied_crd())
    assert ALONE in wait_until_refused(stored)
    for words, change in (
        (PATCH, {"spec": {"training": {"rounds": 5}}}),
        (PATCH, {"spec": {"suspend": False}}),
        ((*PATCH[:3], "--subresource=status", *PATCH[3:]), {"status": {"phase": "Running"}}),
    ):
        code, said = kubectl("-n", stored, *words, json.dumps(change))
        assert code == 0, said
    fraction = {"spec": {"participation": {"fraction": 0.5}}}
    code, said = kubectl("-n", stored, *PATCH, json.dumps(fraction))
    assert (code, ALONE in said) == (1, True), "who touches it has to mend it"
    both = {"spec": {"participation": {"roundDeadlineSeconds": 30}}}
    code, said = kubectl("-n", stored, *PATCH, json.dumps(both))
    assert code == 0, said
