"""containerd of one node: its configuration, its start, and taking its containers away.

Its root (images, unpacked layers) lies in the cache folder and outlives the cluster; its state lies
in the node's folder. Invariant: between two clusters the root holds images, but no container.
"""

import json
import subprocess
import uuid
from pathlib import Path

from tests.cluster import process
from tests.cluster.apiclient import wait_until
from tests.cluster.command import last_line, run
from tests.cluster.errors import ClusterError
from tests.cluster.layout import PAUSE_IMAGE, Layout, NodeSpec
from tests.cluster.packages import cni_folder
from tests.cluster.programs import Programs

NAMESPACE = "k8s.io"
_ROOT_LABEL = "containerd.io/gc.root"
"""What has it is no garbage to containerd."""
# The first would write to /opt, the second take /run/nri from the machine's own containerd.
_DISABLED = ("io.containerd.internal.v1.opt", "io.containerd.nri.v1.nri")
CNI_CACHE = Path("/var/lib/cni/results")


def start_containerd(programs: Programs, node: NodeSpec) -> None:
    layout = programs.layout
    folder = layout.node_folder(node)
    (folder / "cni").mkdir(parents=True)
    layout.containerd_root(node).mkdir(parents=True, exist_ok=True)
    (folder / "cni" / "10-pods.conflist").write_text(json.dumps(_cni(layout, node)))
    (folder / "containerd.toml").write_text(_config(layout, node))
    name = f"containerd-{node.name}"
    programs.start(node, name, "containerd", "--config", folder / "containerd.toml")
    wait_for_containerd(layout, node)


def wait_for_containerd(layout: Layout, node: NodeSpec) -> None:
    def answers() -> bool:
        socket = layout.containerd_socket(node)
        return socket.exists() and "Server:" in run(*_ctr(layout, node), "version", check=False)

    wait_until(answers, f"containerd of node {node.name} answering", timeout_s=30)


def ctr(layout: Layout, node: NodeSpec, *words: str) -> str:
    """Ask a node's containerd something, in the namespace that the kubelet uses."""
    return run(*_ctr(layout, node), *words)


def _ctr(layout: Layout, node: NodeSpec) -> tuple[str, ...]:
    return ("ctr", "--address", str(layout.containerd_socket(node)), "--namespace", NAMESPACE)


def blob_folder(layout: Layout, node: NodeSpec) -> Path:
    """A node's content store: laid out as an image's folder, blobs/sha256/…"""
    return layout.containerd_root(node) / "io.containerd.content.v1.content"


def adopt_blob(layout: Layout, node: NodeSpec, *, file: Path, expected: tuple[str, int]) -> None:
    """Tell containerd of a blob in its store, by digest and size: it takes it without reading.

    It is kept, used or not, until `release_blob`.
    """
    digest, size = expected
    options = ("--expected-digest", digest, "--expected-size", str(size))
    words = (*_ctr(layout, node), "content", "ingest", *options, f"lockstep-{uuid.uuid4().hex}")
    with file.open("rb") as content:
        done = subprocess.run(words, stdin=content, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise ClusterError(f"node {node.name} did not take {digest}: {last_line(done.stderr)}")
    ctr(layout, node, "content", "label", digest, f"{_ROOT_LABEL}=lockstep")


def release_blob(layout: Layout, node: NodeSpec, digest: str) -> None:
    """From now on it stays only while an image names it."""
    ctr(layout, node, "content", "label", digest, f"{_ROOT_LABEL}=")


def release_snapshot(layout: Layout, node: NodeSpec, name: str) -> None:
    """The same for unpacked layers, which `ctr` keeps when it makes them."""
    ctr(layout, node, "snapshots", "label", name, f"{_ROOT_LABEL}=")


def importer(layout: Layout, node: NodeSpec) -> "subprocess.Popen[bytes]":
    """A process that imports the image archive written to its standard input."""
    return subprocess.Popen(
        [*_ctr(layout, node), "images", "import", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


def remove_containers(layout: Layout, node: NodeSpec) -> None:
    """Remove all tasks, containers and their snapshots from a containerd that runs."""
    if tasks := ctr(layout, node, "tasks", "list", "-q").split():
        run(*_ctr(layout, node), "tasks", "delete", "--force", *tasks, check=False)
    if containers := ctr(layout, node, "containers", "list", "-q").split():
        run(*_ctr(layout, node), "containers", "delete", *containers, check=False)
    collect_garbage(layout, node)


def collect_garbage(layout: Layout, node: NodeSpec) -> None:
    """Delete snapshots and layers that nothing names any more, now: a lease's end triggers it."""
    ctr(layout, node, "leases", "create", "--id", "lockstep-collect")
    ctr(layout, node, "leases", "delete", "--sync", "lockstep-collect")


def sweep_root(layout: Layout, node: NodeSpec) -> None:
    """Remove the containers that a crash left in the root, by a containerd without kubelet side."""
    root = layout.containerd_root(node)
    if not (root / "io.containerd.metadata.v1.bolt").exists():
        return
    folder = layout.node_folder(node)
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / "sweep.toml"
    config.write_text(_config(layout, node, disabled=("io.containerd.grpc.v1.cri",)))
    with (folder / "sweep.log").open("ab") as log:
        child = subprocess.Popen(["containerd", "--config", str(config)], stdout=log, stderr=log)
    try:
        wait_for_containerd(layout, node)
        remove_containers(layout, node)
    finally:
        child.terminate()
        child.wait()


def stop_containerd(programs: Programs, node: NodeSpec) -> None:
    record = process.recorded(programs.records).get(f"containerd-{node.name}")
    if record is not None:
        process.stop([record], grace_s=5)


def forget_pods(layout: Layout, node: NodeSpec) -> None:
    """Drop what CRI and CNI remember of pods that are gone."""
    remembered = layout.containerd_root(node) / "io.containerd.grpc.v1.cri"
    for sandbox in remembered.glob("sandboxes/*"):
        for path in CNI_CACHE.glob(f"*-{sandbox.name}-*"):
            path.unlink(missing_ok=True)
    run("rm", "-rf", remembered)


def shim_sockets(layout: Layout, node: NodeSpec) -> list[Path]:
    """Sockets of shims, in a folder that all containerds share: files of killed ones stay."""
    tasks = layout.node_folder(node) / "containerd" / "io.containerd.runtime.v2.task"
    texts = [path.read_text() for path in tasks.glob("*/*/address")]
    return [Path(text.strip().removeprefix("unix://")) for text in texts]


def _cni(layout: Layout, node: NodeSpec) -> dict[str, object]:
    # ptp, not bridge: every packet passes the node's own tables, so Service addresses work between
    # pods of one node on kernels without br_netfilter too.
    addresses = {
        "type": "host-local",
        "dataDir": str(layout.node_folder(node) / "ipam"),
        "ranges": [[{"subnet": str(layout.pod_subnet(node))}]],
        "routes": [{"dst": "0.0.0.0/0"}],
    }
    return {
        "cniVersion": "0.4.0",
        "name": layout.namespace(node),
        "plugins": [
            {"type": "ptp", "ipam": addresses},
            {"type": "portmap", "capabilities": {"portMappings": True}},
            {"type": "bandwidth", "capabilities": {"bandwidth": True}},
        ],
    }


def _config(layout: Layout, node: NodeSpec, disabled: tuple[str, ...] = ()) -> str:
    """Format version 2, which containerd 1.6, 1.7 and 2.x all read."""
    folder = layout.node_folder(node)
    off = json.dumps([*_DISABLED, *disabled])
    cri = '[plugins."io.containerd.grpc.v1.cri"'
    return f"""\
version = 2
root = "{layout.containerd_root(node)}"
state = "{folder}/containerd"
disabled_plugins = {off}
[grpc]
  address = "{layout.containerd_socket(node)}"
{cri}]
  sandbox_image = "{PAUSE_IMAGE}"
  # Without CAP_SYS_RESOURCE, as in many virtual machines, every pod would fail in runc.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
{cri}.cni]
  bin_dir = "{cni_folder()}"
  conf_dir = "{folder}/cni"
{cri}.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
{cri}.containerd.runtimes.runc.options]
  Root = "{folder}/runc"
  SystemdCgroup = false
"""
