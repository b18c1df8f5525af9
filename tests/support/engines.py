"""Debian's docker and podman without installing them: unpacked into the cache.

Used by the end-to-end test of the image builder. Nothing of the machine's own engines is touched:
dockerd has a network namespace, a socket, a cgroup and folders of its own, and ends with the test.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

from images.command import cache_folder

PACKAGES = {"docker": "docker.io", "podman": "podman"}
CGROUP = "lockstep-test-docker"
BASE = "docker.io/library/debian:trixie-slim"
Environment = dict[str, str]


class Unavailable(Exception):
    """The engine cannot run on this machine; the message says why."""


def unpacked(package: str) -> Path:
    """A folder with a package and what it needs that is not installed."""
    folder = cache_folder() / "engines" / package
    if (folder / "complete").exists():
        return folder / "root"
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise Unavailable(f"{package} comes by apt-get, as root")
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "root").mkdir(parents=True)
    if missing := _not_installed(package):
        _run(["apt-get", "download", *missing], cwd=folder)
    for archive in folder.glob("*.deb"):
        _run(["dpkg", "--extract", str(archive), str(folder / "root")])
        archive.unlink()
    (folder / "complete").touch()
    return folder / "root"


def _not_installed(package: str) -> list[str]:
    simulated = ["apt-get", "install", "--simulate", "--no-install-recommends", package]
    try:
        said = _run(simulated)
    except Unavailable:
        _run(["apt-get", "update"])  # a machine without lists knows no package
        said = _run(simulated)
    return [line.split()[1] for line in said.splitlines() if line.startswith("Inst ")]


def _run(command: Sequence[str], *, cwd: Path | None = None, env: Environment | None = None) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode != 0:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise Unavailable(f"{' '.join(command[:3])}: {said}")
    return done.stdout


def _programs(root: Path) -> Environment:
    folders = (*(str(root / name) for name in ("usr/bin", "usr/sbin")), os.environ["PATH"])
    libraries = str(root / "usr/lib/x86_64-linux-gnu")
    return {**os.environ, "PATH": os.pathsep.join(folders), "LD_LIBRARY_PATH": libraries}


@contextmanager
def docker(scratch: Path, base: Path) -> Iterator[Environment]:
    """A dockerd of the test with the base imported; yields the environment for its client."""
    environment = _programs(unpacked(PACKAGES["docker"]))
    socket = f"unix://{scratch / 'docker.sock'}"
    folders = [f"--{name}={scratch / name}" for name in ("data-root", "exec-root", "pidfile")]
    apart = ["--iptables=false", "--ip6tables=false", "--storage-driver=vfs"]
    words = ["dockerd", f"--host={socket}", f"--cgroup-parent=/{CGROUP}", *folders, *apart]
    script = ["sh", "-c", 'ip link set lo up && exec "$@"', "sh", *words]
    with subprocess.Popen(
        ["unshare", "--mount", "--net", *script], env=environment, text=True, errors="replace",
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    ) as daemon:  # fmt: skip
        try:
            _wait_until_it_listens(daemon)
            client = {**environment, "DOCKER_HOST": socket}
            _run(["docker", "import", str(base), BASE], env=client)
            yield client
        finally:
            daemon.terminate()
            daemon.wait()
            _remove_cgroups()


def _wait_until_it_listens(daemon: "subprocess.Popen[str]") -> None:
    assert daemon.stderr is not None
    said = ""
    for said in daemon.stderr:
        if "API listen on" in said:
            Thread(target=daemon.stderr.read, daemon=True).start()  # a full pipe would stop it
            return
    raise Unavailable(f"dockerd does not run here: {said.strip()}")


def _remove_cgroups() -> None:
    hierarchies = Path("/sys/fs/cgroup").glob(f"**/{CGROUP}")
    for top in list(hierarchies):
        for folder, _, _ in os.walk(top, topdown=False):
            Path(folder).rmdir()


@contextmanager
def podman(scratch: Path, base: Path) -> Iterator[Environment]:
    """Podman on a storage of the test with the base imported; yields its environment."""
    root = unpacked(PACKAGES["podman"])
    storage = f'[storage]\ndriver="vfs"\nrunroot="{scratch}/run"\ngraphroot="{scratch}/root"\n'
    (scratch / "storage.conf").write_text(storage)
    engine = '[engine]\ncgroup_manager="cgroupfs"\nevents_logger="file"\n'
    (scratch / "containers.conf").write_text(engine)
    config = scratch / ".config" / "containers"
    config.mkdir(parents=True)
    (config / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    environment = {
        **_programs(root),
        "HOME": str(scratch),
        "XDG_CACHE_HOME": str(cache_folder().parent),
        "CONTAINERS_STORAGE_CONF": str(scratch / "storage.conf"),
        "CONTAINERS_CONF": str(scratch / "containers.conf"),
        "BUILDAH_ISOLATION": "chroot",
    }
    _run(["podman", "import", str(base), BASE], env=environment)
    yield environment
