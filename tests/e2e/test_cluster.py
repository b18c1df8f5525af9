"""What the cluster must give to everything else: names, volumes that last, limits that move.

The pods run as the project's own do: non-root, read-only, no capabilities.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from images.recipe import project_version, reference
from lockstep_api.names import Tier
from tests.cluster import api
from tests.cluster.layout import TIER_LABEL
from tests.support.patience import PATIENCE_S, TIMEOUT

pytestmark = pytest.mark.cluster

IMAGE = reference("worker", project_version())
SLEEP = "import time; print('started', flush=True); time.sleep(600)"
Json = dict[str, Any]


def pod(name: str, code: str, *, tier: Tier, claim: str | None = None) -> Json:
    container: Json = {
        "name": "main",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", code],
        "resources": {
            "requests": {"cpu": "50m", "memory": "64Mi"},
            "limits": {"cpu": "500m", "memory": "128Mi"},
        },
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
    }
    spec: Json = {
        "containers": [container],
        "nodeSelector": {TIER_LABEL: tier},
        "terminationGracePeriodSeconds": 0,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
    }
    if claim is not None:
        spec["volumes"] = [{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]
        container["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]
    metadata = {"name": name, "labels": {"app": name}}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def service(name: str, port: int) -> Json:
    spec = {"selector": {"app": name}, "ports": [{"port": 80, "targetPort": port}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def claim(name: str) -> Json:
    spec = {
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "16Mi"}},
    }
    metadata = {"name": name}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": metadata, "spec": spec}


def apply(namespace: str, *objects: Json) -> None:
    items = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    api.kubectl("-n", namespace, "apply", "-f", "-", stdin=json.dumps(items))


def wait_ready(namespace: str, name: str) -> None:
    ready = "--for=condition=Ready"
    api.kubectl("-n", namespace, "wait", ready, f"pod/{name}", TIMEOUT)


def run_python(namespace: str, name: str, code: str) -> str:
    return api.kubectl("-n", namespace, "exec", name, "--", "python3", "-c", code)


def test_every_tier_has_a_ready_node(cluster: Path) -> None:
    nodes = json.loads(api.kubectl("get", "nodes", "-o", "json"))["items"]
    assert {node["metadata"]["labels"][TIER_LABEL] for node in nodes} == set(Tier)
    for node in nodes:
        conditions = {c["type"]: c["status"] for c in node["status"]["conditions"]}
        assert conditions["Ready"] == "True"


SERVE = """
from http.server import BaseHTTPRequestHandler, HTTPServer
class Hello(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"hello")
HTTPServer(("", 8080), Hello).serve_forever()
"""
# A Service's rules follow its endpoints by a moment: ask again until they are there.
FETCH = """
import time, urllib.request
until = time.monotonic() + {patience_s}
while True:
    try:
        print(urllib.request.urlopen("http://{host}/", timeout=20).read().decode())
        break
    except OSError:
        if time.monotonic() > until:
            raise
        time.sleep(0.2)
"""


@pytest.mark.parametrize("where", [Tier.EDGE, Tier.DEVICE], ids=["same-node", "other-node"])
def test_a_service_is_reached_by_name(namespace: str, where: Tier) -> None:
    """From the server's own node, where no packet leaves it, and from another."""
    server = pod("web", SERVE, tier=Tier.EDGE)
    probe = {"tcpSocket": {"port": 8080}, "periodSeconds": 1}
    server["spec"]["containers"][0]["readinessProbe"] = probe
    apply(namespace, service("web", 8080), server, pod("asks", SLEEP, tier=where))
    wait_ready(namespace, "web")
    wait_ready(namespace, "asks")
    for host in ("web", f"web.{namespace}.svc.cluster.local"):
        fetch = FETCH.format(host=host, patience_s=PATIENCE_S)
        assert run_python(namespace, "asks", fetch).strip() == "hello"


def test_a_volume_keeps_its_data_across_a_pod_restart(namespace: str) -> None:
    keep = pod("keeper", SLEEP, tier=Tier.CLOUD, claim="kept")
    apply(namespace, claim("kept"), keep)
    wait_ready(namespace, "keeper")
    run_python(namespace, "keeper", "open('/data/round', 'w').write('7')")
    api.kubectl("-n", namespace, "delete", "pod", "keeper")
    apply(namespace, keep)
    wait_ready(namespace, "keeper")
    assert run_python(namespace, "keeper", "print(open('/data/round').read())").strip() == "7"


QUOTA = """
from pathlib import Path
v1, v2 = Path('/sys/fs/cgroup/cpu/cpu.cfs_quota_us'), Path('/sys/fs/cgroup/cpu.max')
print((v1 if v1.exists() else v2).read_text().split()[0])
"""


def test_a_resize_changes_the_quota_without_a_restart(namespace: str) -> None:
    apply(namespace, pod("sized", SLEEP, tier=Tier.DEVICE))
    wait_ready(namespace, "sized")
    assert run_python(namespace, "sized", QUOTA).strip() == "50000"
    limits = {"name": "main", "resources": {"limits": {"cpu": "200m"}}}
    patch = json.dumps({"spec": {"containers": [limits]}})
    api.kubectl("-n", namespace, "patch", "pod", "sized", "--subresource=resize", "-p", patch)
    deadline = time.monotonic() + PATIENCE_S
    while run_python(namespace, "sized", QUOTA).strip() != "20000":
        assert time.monotonic() < deadline, "the quota never changed"
    restarts = "jsonpath={.status.containerStatuses[0].restartCount}"
    assert api.kubectl("-n", namespace, "get", "pod", "sized", "-o", restarts) == "0"


def test_logs_are_read(namespace: str) -> None:
    apply(namespace, pod("says", SLEEP, tier=Tier.EDGE))
    wait_ready(namespace, "says")
    kubectl = (str(api.tools() / "kubectl"), f"--kubeconfig={api.kubeconfig()}", "-n", namespace)
    follow = (*kubectl, "logs", "--follow", "says")
    with subprocess.Popen(follow, stdout=subprocess.PIPE, text=True) as logs:
        try:
            assert logs.stdout is not None
            assert logs.stdout.readline() == "started\n"
        finally:
            logs.kill()


def test_a_command_runs_in_a_nodes_network() -> None:
    assert "10.89.0.3/24" in api.node_exec("device", "ip", "-brief", "address", "show", "eth0")


def test_the_command_line_runs_a_command_in_a_nodes_network(cluster: Path) -> None:
    words = ("exec", "device", "--", "ip", "-brief", "address", "show", "eth0")
    argv = [sys.executable, "-m", "tests.cluster", *words]
    assert "10.89.0.3/24" in subprocess.check_output(argv, text=True, timeout=PATIENCE_S)
