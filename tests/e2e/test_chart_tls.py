"""The chart's certificates: the operator's own seed, and a CA of the organisation above it."""

import base64
import json
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ec

from tests.cluster import api
from tests.cluster.errors import ClusterError
from tests.e2e.forwarding import forwarded
from tests.e2e.polled import wait_until_served
from tests.e2e.running import CHART, a_namespace
from tests.support.cert_manager import NAME, crd
from tests.support.certificates import trusting
from tests.support.organisation import root_of, written
from tests.support.patience import PATIENCE_S, TIMEOUT

pytestmark = pytest.mark.cluster

Json = dict[str, Any]
ISSUER = ("--set-json", 'tls.certManager.issuerRef={"name":"root","kind":"ClusterIssuer"}')
CERTIFICATE = ("Certificate", "lockstep-issuer")
SECRET = "lockstep-authority"


def rendered(*words: str) -> dict[tuple[str, str], Json]:
    """What `helm template` makes, by kind and name."""
    text = api.helm("template", "lockstep", str(CHART), "--namespace", "ops", *words)
    made = [document for document in yaml.safe_load_all(text) if document]
    return {(document["kind"], document["metadata"]["name"]): document for document in made}


def operator_of(made: dict[tuple[str, str], Json]) -> tuple[dict[str, Any], list[str], list[str]]:
    """The operator's variables, mounts and volumes."""
    pod = made["Deployment", "lockstep-operator"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    env = {one["name"]: one.get("value") for one in container["env"]}
    mounts = [one["mountPath"] for one in container["volumeMounts"]]
    return env, mounts, [one["name"] for one in pod["volumes"]]


def test_tls_is_on_unless_it_is_switched_off(cluster: Path) -> None:
    assert operator_of(rendered())[0]["LOCKSTEP_TLS"] == "true"
    env, *_ = operator_of(rendered("--set", "tls.enabled=false", *ISSUER))
    assert env["LOCKSTEP_TLS"] == "false"
    assert "LOCKSTEP_ISSUER_DIR" not in env


@pytest.mark.parametrize("words", [(), ("--set", "tls.enabled=false", *ISSUER)])
def test_without_an_issuer_nothing_of_cert_manager_is_asked_for(
    cluster: Path, words: tuple[str, ...]
) -> None:
    made = rendered(*words)
    _, mounts, volumes = operator_of(made)
    assert not {one["apiVersion"] for one in made.values()} & {"cert-manager.io/v1"}
    assert "/issuer" not in mounts
    assert "issuer" not in volumes


def test_with_an_issuer_its_ca_is_mounted(cluster: Path) -> None:
    made = rendered(*ISSUER)
    env, mounts, volumes = operator_of(made)
    assert (env["LOCKSTEP_ISSUER_DIR"], "/issuer" in mounts, "issuer" in volumes) == (
        "/issuer", True, True,
    )  # fmt: skip
    asked = made[CERTIFICATE]["spec"]
    assert (asked["isCA"], asked["secretName"]) == (True, "lockstep-issuer")
    assert asked["issuerRef"] == {"name": "root", "kind": "ClusterIssuer"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("tls.enabled=maybe", "got string, want boolean"),
        ("tls.mode=strict", "additional properties 'mode' not allowed"),
        ("tls.certManager.issuerRef.kind=Issuer", "missing property 'name'"),
        ("tls.certManager.issuer=root", "additional properties 'issuer' not allowed"),
    ],
)
def test_a_wrong_value_is_refused(cluster: Path, value: str, message: str) -> None:
    with pytest.raises(ClusterError, match=message):
        rendered("--set", value)


@pytest.fixture(scope="module")
def cert_manager(cluster: Path) -> Iterator[None]:
    """The CRD of its Certificate, without it; one that was there stays."""
    there = api.kubectl("get", "crd", NAME, "--ignore-not-found", "-o", "name")
    if not there:
        api.kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump(crd()))
        wait_until_served(NAME)
    yield
    if not there:
        api.kubectl("delete", "crd", NAME, "--wait=false")


def test_cert_managers_crd_takes_what_is_rendered(cert_manager: None, namespace: str) -> None:
    asked = rendered(*ISSUER)[CERTIFICATE]
    asked["metadata"]["namespace"] = namespace
    apply = ("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", "-")
    assert "lockstep-issuer" in api.kubectl(*apply, stdin=json.dumps(asked))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """The files of a CA of the organisation, and its certificate."""
    folder, key = tmp_path_factory.mktemp("issuer"), ec.generate_private_key(ec.SECP256R1())
    written(folder, key, made := root_of(key))
    return folder, made


@pytest.fixture(scope="module")
def release(cert_manager: None, root: tuple[Path, bytes]) -> Iterator[str]:
    """The operator alone, with the Secret that cert-manager would have made."""
    with a_namespace() as name:
        files = [f"--{word}={root[0]}/tls.{end}" for word, end in (("cert", "crt"), ("key", "key"))]
        api.kubectl("-n", name, "create", "secret", "tls", "lockstep-issuer", *files)
        api.helm(
            "install", "lockstep", str(CHART), "--namespace", name, "--wait", TIMEOUT, *ISSUER,
            "--set", f"watchNamespaces={{{name}}},tls.enabled=true",
            "--set", "prometheus.enabled=false,dashboards.enabled=false",
        )  # fmt: skip
        yield name
        api.helm("uninstall", "lockstep", "--namespace", name)


def seed(namespace: str) -> str:
    found = json.loads(api.kubectl("-n", namespace, "get", "secret", SECRET, "-o", "json"))
    return str(found["data"]["seed"])


def test_who_trusts_the_organisation_trusts_the_planner(
    release: str, root: tuple[Path, bytes]
) -> None:
    host = f"lockstep-operator.{release}.svc"
    with (
        forwarded(release, "svc/lockstep-operator", 8080) as port,
        socket.create_connection(("127.0.0.1", port), PATIENCE_S) as plain,
        trusting(root[1].decode()).wrap_socket(plain, server_hostname=host) as secured,
    ):
        assert secured.version() == "TLSv1.3"


def test_the_planner_says_that_it_speaks_tls(release: str) -> None:
    with (
        forwarded(release, "svc/lockstep-operator", 8080) as port,
        socket.create_connection(("127.0.0.1", port), PATIENCE_S) as plain,
    ):
        plain.sendall(b"GET / HTTP/1.1\r\nhost: planner\r\n\r\n")
        said = b""
        while b"https://" not in said and (more := plain.recv(1000)):  # it may come in parts
            said += more
        assert b"https://" in said


def test_a_stranger_is_not_taken_for_the_planner(release: str) -> None:
    """Somebody else's CA: whoever trusts it alone says nothing to this planner."""
    other = root_of(ec.generate_private_key(ec.SECP256R1())).decode()
    with (
        forwarded(release, "svc/lockstep-operator", 8080) as port,
        socket.create_connection(("127.0.0.1", port), PATIENCE_S) as plain,
        pytest.raises(ssl.SSLCertVerificationError),
    ):
        trusting(other).wrap_socket(plain, server_hostname=f"lockstep-operator.{release}.svc")


def test_the_seed_is_made_once_and_outlives_operator_and_release(release: str) -> None:
    before = seed(release)
    assert len(base64.b64decode(before)) == 32
    api.kubectl("-n", release, "rollout", "restart", "deployment/lockstep-operator")
    api.kubectl("-n", release, "rollout", "status", "deployment/lockstep-operator", TIMEOUT)
    assert seed(release) == before
    label = api.kubectl("-n", release, "get", "secret", SECRET, "-o", "jsonpath={.metadata.labels}")
    assert "helm" not in label.lower()
