"""Pods that knock at others' ports, and what they hear: for tests of who reaches whom.

A policy holds a moment after it was written, so who asks says what he expects, and asks again until
he hears it.
"""

import json
from collections.abc import Mapping
from typing import Any

from images.recipe import project_version, reference
from lockstep_api import names
from lockstep_api.names import Tier
from tests.cluster import api
from tests.cluster.layout import TIER_LABEL

Json = dict[str, Any]
Knocks = Mapping[tuple[str, int], str]
"""By host and port, what is heard there."""
TAKEN = "taken"
KEPT_OUT = "kept out"
"""By a policy: no closed port says so."""
PORT = 8080
_SERVE = f"""
import http.server
http.server.ThreadingHTTPServer(("", {PORT}), http.server.SimpleHTTPRequestHandler).serve_forever()
"""
_KNOCK = """
import errno, json, socket, sys, time
doors = json.loads(sys.argv[1])
def knock(host, port):
    try:
        socket.create_connection((host, port), timeout=10).close()
        return "taken"
    except TimeoutError:
        return "kept out"
    except OSError as error:
        kept = error.errno == errno.EHOSTUNREACH
        return "kept out" if kept else str(error)
until, heard = time.monotonic() + 240, {}
for host, port, expected in doors:
    while (said := knock(host, port)) != expected and time.monotonic() < until:
        time.sleep(0.2)
    heard[f"{host} {port}"] = said
print(json.dumps(heard))
"""


def knocker(name: str, *, labels: Mapping[str, str] | None = None, tier: Tier = Tier.CLOUD) -> Json:
    """A pod that can knock, and serves HTTP itself, on a port that is named as those of servers."""
    container = {
        "name": "main",
        "image": reference("operator", project_version()),
        "imagePullPolicy": "IfNotPresent",
        "command": ["python3", "-c", _SERVE],
        "ports": [{"name": names.DATA, "containerPort": PORT}],
        "readinessProbe": {"httpGet": {"path": "/", "port": PORT}, "periodSeconds": 1},
        "resources": {"requests": {"cpu": "10m", "memory": "32Mi"}},
    }
    spec = {
        "containers": [container],
        "nodeSelector": {TIER_LABEL: str(tier)},
        "terminationGracePeriodSeconds": 0,
    }
    labelled = {"app": name} | {key: str(value) for key, value in (labels or {}).items()}
    meta = {"name": name, "labels": labelled}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def heard(namespace: str, pod: str, expected: Knocks) -> Knocks:
    """What a pod hears at these doors: what is expected, or what it heard last."""
    doors = [[host, port, said] for (host, port), said in expected.items()]
    run = ("exec", pod, "--", "python3", "-c", _KNOCK, json.dumps(doors))
    said = json.loads(api.kubectl("-n", namespace, *run))
    return {(host, port): said[f"{host} {port}"] for host, port in expected}
