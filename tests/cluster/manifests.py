"""The objects every cluster has from the start: pure data, applied by `control_plane`.

They give CoreDNS its Service, the programs their rights, and claims a default StorageClass.
"""

from collections.abc import Iterator
from typing import Any

from tests.cluster.layout import Layout

Manifest = dict[str, Any]
PROVISIONER = "lockstep.dev/local"

_RBAC = "/apis/rbac.authorization.k8s.io/v1"
_ROLES = {
    "system:kube-proxy": "system:node-proxier",
    "system:coredns": "lockstep:coredns",
    "system:local-provisioner": "system:persistent-volume-provisioner",
}


def defaults(layout: Layout) -> Iterator[tuple[str, Manifest]]:
    """Each object with the path it is applied at."""
    yield f"{_RBAC}/clusterroles/lockstep:coredns", _dns_role()
    for user, role in _ROLES.items():
        name = user.replace("system:", "lockstep:")
        yield f"{_RBAC}/clusterrolebindings/{name}", _binding(name, user, role)
    yield "/apis/storage.k8s.io/v1/storageclasses/local", _storage_class()
    yield "/api/v1/namespaces/kube-system/services/kube-dns", _dns_service(layout)
    slices = "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices"
    yield f"{slices}/kube-dns-process", _dns_endpoints(layout)


def _dns_role() -> Manifest:
    def readable(group: str, *resources: str) -> Manifest:
        return {"apiGroups": [group], "resources": resources, "verbs": ["list", "watch"]}

    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "ClusterRole",
        "metadata": {"name": "lockstep:coredns"},
        "rules": [
            readable("", "services", "namespaces", "pods"),
            readable("discovery.k8s.io", "endpointslices"),
        ],
    }


def _binding(name: str, user: str, role: str) -> Manifest:
    group = "rbac.authorization.k8s.io"
    return {
        "apiVersion": f"{group}/v1",
        "kind": "ClusterRoleBinding",
        "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "ClusterRole", "name": role},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
    }


def _storage_class() -> Manifest:
    return {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {
            "name": "local",
            "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
        },
        "provisioner": PROVISIONER,
        "reclaimPolicy": "Delete",
        "volumeBindingMode": "WaitForFirstConsumer",  # a folder is on the node of its first pod
    }


def _dns_ports(extra: Manifest) -> list[Manifest]:
    names = {"dns": "UDP", "dns-tcp": "TCP"}
    return [{"name": name, "port": 53, "protocol": kind} | extra for name, kind in names.items()]


def _dns_service(layout: Layout) -> Manifest:
    """A Service without selector: CoreDNS is a process, not a pod."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system"},
        "spec": {"clusterIP": str(layout.dns_address), "ports": _dns_ports({"targetPort": 53})},
    }


def _dns_endpoints(layout: Layout) -> Manifest:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": "kube-dns-process",
            "namespace": "kube-system",
            "labels": {"kubernetes.io/service-name": "kube-dns"},
        },
        "addressType": "IPv4",
        "endpoints": [{"addresses": [str(layout.api_address)], "conditions": {"ready": True}}],
        "ports": _dns_ports({}),
    }
