"""etcd, API server, controllers, scheduler, CoreDNS and the volume provisioner, in the first node.

`lifecycle` calls `start_storage` first, `start_controllers` once the API answers, then
`apply_defaults`. Nothing here survives `down`: every cluster starts empty.
"""

from tests.cluster import manifests
from tests.cluster.apiclient import ApiClient
from tests.cluster.programs import Programs

ETCD = "http://127.0.0.1:2379"
DNS_READY_PORT = 8181


def start_storage(programs: Programs) -> None:
    _start_etcd(programs)
    _start_api_server(programs)


def start_controllers(programs: Programs) -> None:
    _start_controller_manager(programs)
    first, pki = programs.layout.nodes[0], programs.layout.state / "pki"
    programs.start_kube(
        first,
        "kube-scheduler",
        "kube-scheduler",
        kubeconfig=pki / "kube-scheduler.kubeconfig",
        bind_address="127.0.0.1",
        leader_elect="false",
        cert_dir=programs.records,
    )
    programs.start_kube(
        first,
        "local-provisioner",
        "local-provisioner",
        kubeconfig=pki / "local-provisioner.kubeconfig",
        root=programs.layout.volumes,
    )


def start_dns(programs: Programs) -> None:
    layout = programs.layout
    corefile = layout.state / "Corefile"
    corefile.write_text(
        f"""\
.:53 {{
  bind {layout.api_address}
  errors
  ready {layout.api_address}:{DNS_READY_PORT}
  kubernetes cluster.local {{
    kubeconfig {layout.state}/pki/coredns.kubeconfig
  }}
}}
"""
    )
    programs.start(layout.nodes[0], "coredns", programs.kubeall, "coredns", "-conf", corefile)


def apply_defaults(programs: Programs, api: ApiClient) -> None:
    for path, manifest in manifests.defaults(programs.layout):
        api.apply(path, manifest)


def _start_etcd(programs: Programs) -> None:
    programs.start_kube(
        programs.layout.nodes[0],
        "etcd",
        "etcd",
        name="lockstep",
        data_dir=programs.layout.state / "etcd",
        listen_client_urls=ETCD,
        advertise_client_urls=ETCD,
        listen_peer_urls="http://127.0.0.1:2380",
        unsafe_no_fsync="true",  # the data dies with the cluster: speed over safety
        log_level="warn",
    )


def _start_api_server(programs: Programs) -> None:
    layout, pki = programs.layout, programs.layout.state / "pki"
    programs.start_kube(
        layout.nodes[0],
        "kube-apiserver",
        "kube-apiserver",
        etcd_servers=ETCD,
        bind_address=layout.api_address,
        advertise_address=layout.api_address,
        secure_port=6443,
        service_cluster_ip_range=layout.service_net,
        client_ca_file=pki / "ca.crt",
        tls_cert_file=pki / "kube-apiserver.crt",
        tls_private_key_file=pki / "kube-apiserver.key",
        kubelet_client_certificate=pki / "kubelet-client.crt",
        kubelet_client_key=pki / "kubelet-client.key",
        kubelet_certificate_authority=pki / "ca.crt",
        # Else logs and exec try to resolve node names by the machine's DNS.
        kubelet_preferred_address_types="InternalIP",
        service_account_issuer="https://kubernetes.default.svc.cluster.local",
        service_account_key_file=pki / "service-account.pub",
        service_account_signing_key_file=pki / "service-account.key",
        authorization_mode="Node,RBAC",
        enable_admission_plugins="NodeRestriction",
        allow_privileged="true",
        # A lost node's pods are to be replaced within a test's patience, not after five minutes.
        default_not_ready_toleration_seconds=10,
        default_unreachable_toleration_seconds=10,
        cert_dir=programs.records,
    )


def _start_controller_manager(programs: Programs) -> None:
    pki = programs.layout.state / "pki"
    programs.start_kube(
        programs.layout.nodes[0],
        "kube-controller-manager",
        "kube-controller-manager",
        kubeconfig=pki / "kube-controller-manager.kubeconfig",
        bind_address="127.0.0.1",
        leader_elect="false",
        service_account_private_key_file=pki / "service-account.key",
        root_ca_file=pki / "ca.crt",
        cluster_signing_cert_file=pki / "ca.crt",
        cluster_signing_key_file=pki / "ca.key",
        use_service_account_credentials="true",
        controllers="*,-node-ipam-controller",  # `layout` gives every node its pod addresses
        flex_volume_plugin_dir=programs.layout.state / "volume-plugins",
        node_monitor_period="1s",
        node_monitor_grace_period="20s",
        cert_dir=programs.records,
    )
