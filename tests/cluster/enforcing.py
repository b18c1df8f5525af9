"""Enforces NetworkPolicies in an embedded cluster, whose ptp links do not: a program of its own.

`lifecycle` starts it as `python -m tests.cluster.enforcing NAME`, and a cluster is ready when its
mark is there. It follows pods, namespaces and policies and loads each node's rules (`policies`)
when they have changed, in one step. While it is away the rules stay as they are.
"""

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.cluster.apiclient import ApiClient, Json
from tests.cluster.errors import ClusterError
from tests.cluster.layout import Layout, NodeSpec, recall
from tests.cluster.policies import ENTRY, PREFIXES, Pod, Seen, chains_of, pod_of, script
from tests.cluster.programs import Programs

MODULE = "tests.cluster.enforcing"
_ROOT = Path(__file__).resolve().parents[2]
_PODS = "/api/v1/pods"
_NAMESPACES = "/api/v1/namespaces"
_POLICIES = "/apis/networking.k8s.io/v1/networkpolicies"
_AGAIN_S = 1.0


def start_enforcing(programs: Programs) -> None:
    """Start it beside the control plane."""
    layout = programs.layout
    words = ("env", f"PYTHONPATH={':'.join([str(_ROOT), *filter(None, sys.path)])}", sys.executable)
    programs.start(layout.nodes[0], "enforcing", *words, "-m", MODULE, layout.name, layout.state)


def mark(layout: Layout) -> Path:
    """What is there once the rules of all nodes have been loaded."""
    return layout.state / "enforcing"


@dataclass(slots=True)
class Followed:
    """All objects of a kind, by list and watch, for ever."""

    api: ApiClient
    path: str
    changed: Callable[[], None]
    objects: dict[str, Json] = field(default_factory=dict)
    listed: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while True:
            try:
                self._follow()
            except (ClusterError, OSError, ValueError) as error:
                print(f"{self.path}: {error}", flush=True)
                time.sleep(_AGAIN_S)

    def _follow(self) -> None:
        """A list, and what changes after it until the watch ends."""
        found = self.api.request("GET", self.path)
        self.objects = {_uid(one): one for one in found["items"]}
        self.listed.set()
        self.changed()
        for event in self.api.watch(self.path, found["metadata"]["resourceVersion"]):
            if event["type"] == "ERROR":
                return  # too old: a new list
            self._take(event["type"], event["object"])

    def _take(self, kind: str, one: Json) -> None:
        objects = dict(self.objects)  # others read it meanwhile
        if kind == "DELETED":
            objects.pop(_uid(one), None)
        else:
            objects[_uid(one)] = one
        self.objects = objects
        self.changed()


def _uid(manifest: Json) -> str:
    return str(manifest["metadata"]["uid"])


class Enforcer:
    """What is known, and what each node was given last."""

    def __init__(self, layout: Layout) -> None:
        api = ApiClient.from_kubeconfig(layout.kubeconfig)
        self._layout = layout
        self._wake = threading.Event()
        paths = (_PODS, _NAMESPACES, _POLICIES)
        self._followed = {path: Followed(api, path, self._wake.set) for path in paths}
        self._loaded: dict[NodeSpec, str] = {}
        self._chains = {node: _chains_there(layout, node) for node in layout.nodes}
        # DNS is a process of the first node: policies that speak of pods of kube-system mean it.
        self._dns = Pod("kube-system", {"k8s-app": "kube-dns"}, str(layout.api_address))

    def run(self) -> None:
        """For ever: each change is in force a moment later."""
        for one in self._followed.values():
            threading.Thread(target=one.run, daemon=True).start()
        for one in self._followed.values():
            one.listed.wait()
        while True:
            self._wake.wait()
            self._wake.clear()
            try:
                self._load(self._seen())
            except ClusterError as error:
                print(error, flush=True)
                time.sleep(_AGAIN_S)
                self._wake.set()
            else:
                mark(self._layout).touch()

    def _seen(self) -> Seen:
        pods = map(pod_of, self._followed[_PODS].objects.values())
        spaces = self._followed[_NAMESPACES].objects.values()
        return Seen(
            (self._dns, *(pod for pod in pods if pod is not None)),
            {one["metadata"]["name"]: one["metadata"].get("labels") or {} for one in spaces},
            tuple(self._followed[_POLICIES].objects.values()),
        )

    def _load(self, seen: Seen) -> None:
        for node in self._layout.nodes:
            chains = chains_of(node.name, seen)
            text = script(chains)
            if text != self._loaded.get(node):
                _restore(self._layout, node, script(chains, stale=self._chains[node]))
                self._loaded[node], self._chains[node] = text, set(chains)


def _restore(layout: Layout, node: NodeSpec, text: str) -> None:
    """All of it or nothing; then the first of what is asked of packets that are forwarded."""
    _in_node(layout, node, "iptables-restore", "--noflush", "--wait", stdin=text)
    jump = ("FORWARD", "-j", ENTRY)
    if _in_node(layout, node, "iptables", "--wait", "-S", "FORWARD").find(f"-j {ENTRY}") < 0:
        _in_node(layout, node, "iptables", "--wait", "-I", *jump)


def _chains_there(layout: Layout, node: NodeSpec) -> set[str]:
    """What one before this has left."""
    said = _in_node(layout, node, "iptables", "--wait", "-S")
    names = (line.split()[1] for line in said.splitlines() if line.startswith("-N "))
    return {name for name in names if name.startswith(PREFIXES)}


def _in_node(layout: Layout, node: NodeSpec, *words: str, stdin: str | None = None) -> str:
    inside = ["nsenter", f"--net={layout.namespace_path(node)}", "--", *words]
    done = subprocess.run(inside, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(f"node {node.name}: {words[0]} failed: {done.stderr.strip()[-300:]}")
    return done.stdout


if __name__ == "__main__":
    Enforcer(recall(Layout(name=sys.argv[1]))).run()
