"""kubelet and kube-proxy of one node; `lifecycle` starts them when the API answers.

The node's size is what is left of the machine after `systemReserved`: that is how nodes that share
one machine get sizes of their own.
"""

import json
import os
from pathlib import Path

from tests.cluster.errors import ClusterError
from tests.cluster.layout import (
    RESERVED_CPU_MILLI,
    RESERVED_MEMORY_MIB,
    TIER_LABEL,
    Layout,
    NodeSpec,
)
from tests.cluster.programs import Programs

MAX_PODS = 250
_EVICTION_MIB = 200


def start_node(programs: Programs, node: NodeSpec) -> None:
    layout = programs.layout
    folder, pki = layout.node_folder(node), layout.state / "pki"
    config = folder / "kubelet.json"
    config.write_text(json.dumps(kubelet_config(layout, node)))
    programs.start_kube(
        node,
        f"kubelet-{node.name}",
        "kubelet",
        config=config,
        kubeconfig=pki / f"kubelet-{node.name}.kubeconfig",
        hostname_override=node.name,
        node_ip=layout.address(node),
        root_dir=folder / "kubelet",
        cert_dir=folder / "kubelet" / "pki",
        node_labels=f"{TIER_LABEL}={node.tier}",
    )
    programs.start_kube(
        node,
        f"kube-proxy-{node.name}",
        "kube-proxy",
        kubeconfig=pki / "kube-proxy.kubeconfig",
        proxy_mode="iptables",
        hostname_override=node.name,
        cluster_cidr=layout.pod_net,
        healthz_bind_address="127.0.0.1:10256",
        metrics_bind_address="127.0.0.1:10249",
        conntrack_max_per_core=0,  # a setting of the whole machine, not ours to change
    )


def kubelet_config(layout: Layout, node: NodeSpec) -> dict[str, object]:
    folder, pki = layout.node_folder(node), layout.state / "pki"
    resolv = folder / "resolv.conf"
    resolv.write_text(f"nameserver {layout.dns_address}\n")
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": False,  # from 1.35 the kubelet refuses cgroup v1 otherwise
        "failSwapOn": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{layout.cgroup(node)}",
        "containerRuntimeEndpoint": f"unix://{layout.containerd_socket(node)}",
        "address": str(layout.address(node)),
        "healthzBindAddress": "127.0.0.1",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": f"{pki}/ca.crt"},
        },
        "authorization": {"mode": "Webhook"},
        "tlsCertFile": f"{pki}/server-{node.name}.crt",
        "tlsPrivateKeyFile": f"{pki}/server-{node.name}.key",
        "clusterDNS": [str(layout.dns_address)],
        "clusterDomain": "cluster.local",
        "resolvConf": str(resolv),
        "podLogsDir": f"{folder}/pod-logs",
        "volumePluginDir": f"{folder}/volume-plugins",
        "maxPods": MAX_PODS,
        # One node stands for many devices: with the defaults (50, 100) the status of 50 pods that
        # are resized at once comes seconds after their quotas.
        "kubeAPIQPS": 500,
        "kubeAPIBurst": 1000,
        "serializeImagePulls": False,
        "nodeLeaseDurationSeconds": 10,
        "nodeStatusUpdateFrequency": "4s",
        # Images come by `load` only: what the kubelet deleted could not be pulled again.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {
            "memory.available": f"{_EVICTION_MIB}Mi",
            "nodefs.available": "1%",
            "imagefs.available": "1%",
        },
        "systemReserved": reserved(node, os.cpu_count() or 1, machine_memory_mib()),
    }


def check_sizes(layout: Layout) -> None:
    """Refuse nodes larger than the machine before anything is started."""
    for node in layout.nodes:
        reserved(node, os.cpu_count() or 1, machine_memory_mib())


def reserved(node: NodeSpec, cpus: int, memory_mib: int) -> dict[str, str]:
    """What to withhold from pods so that the node has the wanted size."""
    cpu, memory = RESERVED_CPU_MILLI, RESERVED_MEMORY_MIB
    if node.cpu_milli is not None:
        cpu = cpus * 1000 - node.cpu_milli
    if node.memory_mib is not None:
        memory = memory_mib - _EVICTION_MIB - node.memory_mib
    if cpu < 0 or memory < 0:
        raise ClusterError(
            f"node {node.name} is to be larger than the machine ({cpus} CPUs, {memory_mib} MiB): "
            "give it a smaller size"
        )
    return {"cpu": f"{cpu}m", "memory": f"{memory}Mi"}


def machine_memory_mib() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) // 1024
    raise ClusterError("/proc/meminfo names no MemTotal: is /proc mounted?")
