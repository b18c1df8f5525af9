"""A cluster that is there already: does it answer, and does every tier have a node?

Nodes that carry a tier label keep it. Only if tiers lack a node, unlabelled nodes are given to
them, the strongest to the cloud; devices get whatever is left.
"""

import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lockstep_api.names import Tier
from tests.cluster.command import run
from tests.cluster.errors import ClusterError
from tests.cluster.layout import TIER_LABEL


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    cpu_milli: int
    tier: str | None
    images: frozenset[str] = frozenset()
    """Names of the images it reports, at most 50 by default."""


def check_reachable(kubeconfig: Path) -> None:
    try:
        _kubectl(kubeconfig, "get", "--raw", "/version", "--request-timeout=10s")
    except ClusterError as error:
        raise ClusterError(f"the cluster of {kubeconfig} does not answer: {error}") from error


def nodes_of(kubeconfig: Path) -> list[Node]:
    items = json.loads(_kubectl(kubeconfig, "get", "nodes", "-o", "json"))["items"]
    return [
        Node(
            item["metadata"]["name"],
            parse_cpu(item["status"]["allocatable"]["cpu"]),
            item["metadata"]["labels"].get(TIER_LABEL),
            frozenset(
                name for image in item["status"].get("images", []) for name in image["names"]
            ),
        )
        for item in items
    ]


def label_tiers(kubeconfig: Path) -> None:
    nodes = nodes_of(kubeconfig)
    chosen = assign_tiers(nodes)
    for name, tier in chosen.items():
        print(f"labelling node {name} {TIER_LABEL}={tier}")
        _kubectl(kubeconfig, "label", "node", name, f"{TIER_LABEL}={tier}")
    have = {node.tier for node in nodes} | set(chosen.values())
    for tier in Tier:
        if tier not in have:
            print(f"no node of tier {tier}: kubectl label node NAME {TIER_LABEL}={tier}")


def assign_tiers(nodes: Iterable[Node]) -> dict[str, Tier]:
    """Which unlabelled node becomes which tier; empty if every tier has a node."""
    nodes = list(nodes)
    lacking = [tier for tier in Tier if tier not in {node.tier for node in nodes}]
    free = sorted(
        (node for node in nodes if node.tier is None), key=lambda n: (-n.cpu_milli, n.name)
    )
    if not lacking:
        return {}
    wanted = [*lacking, *[Tier.DEVICE] * len(free)]
    return {node.name: tier for node, tier in zip(free, wanted, strict=False)}


def lacking_images(nodes: Iterable[Node], names: Iterable[str]) -> list[str]:
    """Images that some node does not have."""
    nodes = list(nodes)
    return [name for name in names if any(name not in node.images for node in nodes)]


def parse_cpu(text: str) -> int:
    return int(text[:-1]) if text.endswith("m") else round(float(text) * 1000)


def _kubectl(kubeconfig: Path, *words: str) -> str:
    if shutil.which("kubectl") is None:
        raise ClusterError("CLUSTER=existing needs kubectl: install it and put it in PATH")
    return run("kubectl", f"--kubeconfig={kubeconfig}", *words)
