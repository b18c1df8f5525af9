"""Up, down and status of the embedded cluster: the order of things, nothing else.

A cluster is whole when its `ready` file is there and every recorded process lives. `up` leaves a
whole cluster alone and clears away anything else first, so a crash needs no care.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from tests.cluster import (
    binary,
    cgroups,
    control_plane,
    faults,
    node,
    prerequisites,
    process,
    runtime,
)
from tests.cluster.addresses import machine_routes
from tests.cluster.apiclient import ApiClient
from tests.cluster.enforcing import start_enforcing
from tests.cluster.errors import ClusterError
from tests.cluster.faults import SlowWay
from tests.cluster.images import load_into
from tests.cluster.layout import (
    Layout,
    NodeSpec,
    ranges_of_others,
    recall,
    with_free_addresses,
    write_down,
)
from tests.cluster.locks import locked
from tests.cluster.modules import load_modules
from tests.cluster.network import check_names_free, create_network, our_links
from tests.cluster.oci import read_images
from tests.cluster.packages import install_packages
from tests.cluster.pause import pause_layout
from tests.cluster.pki import write_pki
from tests.cluster.programs import Programs
from tests.cluster.readiness import wait_for_api, wait_for_nodes, wait_ready
from tests.cluster.settings import note_settings
from tests.cluster.teardown import remove_cluster


def up(layout: Layout) -> Path:
    """Bring the cluster up unless it is; returns the kubeconfig."""
    prerequisites.check_all()
    install_packages()
    node.check_sizes(layout)
    programs = Programs(layout, binary.kubeall())
    pause = pause_layout()
    with _lock(layout):
        if is_whole(programs):
            _check_same_nodes(layout)
            return layout.kubeconfig
        if layout.state.exists():
            print("clearing away the remains of an earlier cluster", flush=True)
            remove_cluster(_programs_of(layout))
        with locked("slots", "choosing addresses"):  # taken once they are written down
            check_names_free(layout)
            taken = [*ranges_of_others(layout), *machine_routes(our_links(layout))]
            placed = with_free_addresses(layout, taken)
            programs = Programs(placed, programs.kubeall)
            _make_folders(programs)
        _start(programs, pause)
    return layout.kubeconfig


def _check_same_nodes(layout: Layout) -> None:
    running = recall(layout)
    if running.nodes != layout.nodes:
        nodes = " ".join(map(str, running.nodes))
        raise ClusterError(f"a cluster with the nodes {nodes} is up: take it down first")


def down(layout: Layout) -> bool:
    """Remove everything but the cache; returns whether there was anything."""
    prerequisites.check_machine()
    with _lock(layout):
        existed = layout.state.exists()
        if existed:
            remove_cluster(_programs_of(layout))
    return existed


@contextmanager
def kubelet_stopped(layout: Layout, node_name: str) -> Iterator[None]:
    """A node without its kubelet; afterwards it runs again and the node is ready."""
    programs = _programs_of(layout)
    spec = programs.layout.node(node_name)
    stopped = faults.stop_program(programs, spec, f"kubelet-{spec.name}")
    try:
        yield
    finally:
        faults.start_program(programs, stopped)
        api = ApiClient.from_kubeconfig(layout.kubeconfig)
        wait_for_nodes(programs, api)


@contextmanager
def apiserver_stopped(layout: Layout) -> Iterator[None]:
    """No kube-apiserver, by SIGKILL; afterwards there is a new one, which is ready."""
    programs = _programs_of(layout)
    stopped = faults.stop_program(programs, programs.layout.nodes[0], "kube-apiserver")
    try:
        yield
    finally:
        faults.start_program(programs, stopped)
        wait_for_api(programs, ApiClient.from_kubeconfig(layout.kubeconfig))


@contextmanager
def slow_way(layout: Layout) -> Iterator[SlowWay]:
    """Another address of the apiserver, where calls take longer when a test says so."""
    programs = _programs_of(layout)
    way, started = faults.start_slow_way(programs)
    try:
        yield way
    finally:
        faults.stop_slow_way(programs, started)


def _programs_of(layout: Layout) -> Programs:
    """The programs that run, with their own nodes and binary: no build to take them down."""
    link = layout.state / "kubeall"
    return Programs(recall(layout), link.resolve() if link.is_symlink() else Path("kubeall"))


def is_whole(programs: Programs) -> bool:
    records = process.recorded(programs.records)
    alive = all(identity.alive for identity in records.values())
    return bool(records) and alive and (programs.layout.state / "ready").exists()


def status(layout: Layout) -> str:
    """One word on the cluster: up, down or broken."""
    if not layout.state.exists():
        return "down"
    return "up" if is_whole(_programs_of(layout)) else "broken"


def _lock(layout: Layout) -> AbstractContextManager[None]:
    """One `up` or `down` of a cluster at a time."""
    return locked(f"cluster-{layout.name}", f"bringing cluster {layout.name} up or down")


def _make_folders(programs: Programs) -> None:
    layout = programs.layout
    for folder in (programs.records, layout.logs, layout.volumes):
        folder.mkdir(parents=True)
    write_down(layout)


def _start(programs: Programs, pause: Path) -> None:
    layout = programs.layout
    (layout.state / "kubeall").symlink_to(programs.kubeall)
    note_settings(layout)
    load_modules()
    write_pki(layout)
    create_network(layout)
    control_plane.start_storage(programs)
    with ThreadPoolExecutor(len(layout.nodes) + 1) as pool:
        runtimes = [pool.submit(_start_runtime, programs, n, pause) for n in layout.nodes]
        api = pool.submit(_start_controllers, programs).result()
        for started in runtimes:
            started.result()
    for each in layout.nodes:
        node.start_node(programs, each)
    start_enforcing(programs)
    wait_ready(programs, api)
    (layout.state / "ready").touch()


def _start_runtime(programs: Programs, spec: NodeSpec, pause: Path) -> None:
    cgroups.create(programs.layout.cgroup(spec))
    runtime.start_containerd(programs, spec)
    load_into(programs.layout, spec, read_images(pause))


def _start_controllers(programs: Programs) -> ApiClient:
    api = ApiClient.from_kubeconfig(programs.layout.kubeconfig)
    wait_for_api(programs, api)
    control_plane.start_controllers(programs)
    control_plane.apply_defaults(programs, api)
    control_plane.start_dns(programs)
    return api
