"""Builds kubeall, the whole of Kubernetes in one binary, from the Go module proxy, once.

The result is kept in the cache folder under a hash of everything that goes in, so a changed source
means another file and an unchanged one none. LOCKSTEP_KUBE_BIN names a binary to use instead.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from tests.cluster import golang
from tests.cluster.command import last_line
from tests.cluster.errors import ClusterError
from tests.cluster.layout import cache_folder
from tests.cluster.locks import locked

SOURCES = golang.MODULE.parent
VERSION = "1.36.2"
TOOLS = ("kubectl", "helm")
_GIT = {
    "gitVersion": f"v{VERSION}",
    "gitMajor": VERSION.split(".", maxsplit=1)[0],
    "gitMinor": VERSION.split(".")[1],
    "gitTreeState": "clean",
    "buildDate": "1970-01-01T00:00:00Z",
}
_PACKAGES_WITH_VERSION = ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version")
_VERSION_FLAGS = [
    f"-X {p}.{key}={value}" for p in _PACKAGES_WITH_VERSION for key, value in _GIT.items()
]
FLAGS = (
    "-trimpath",
    "-mod=readonly",
    "-buildvcs=false",
    "-gcflags=all=-dwarf=false",  # -w would drop it later: it costs less when it is not made
    f"-ldflags={' '.join(['-s', '-w', '-buildid=', *_VERSION_FLAGS])}",
)


# The compiler collects its garbage less often, up to a bound: that saves CPU time.
_COMPILER = {"GOGC": "400", "GOMEMLIMIT": "3GiB"}


def source_hash(sources: Path, flags: Iterable[str]) -> str:
    """A name for what a build makes of these sources: equal inputs, equal name."""
    digest = hashlib.sha256("\0".join(flags).encode())
    for path in sorted(p for p in sources.rglob("*") if p.suffix in {".go", ".mod", ".sum"}):
        digest.update(f"\0{path.relative_to(sources)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def kubeall() -> Path:
    """The binary: the named one, the cached one, or a newly built one, one build at a time."""
    if named := os.environ.get("LOCKSTEP_KUBE_BIN"):
        path = Path(named).resolve()
        if not os.access(path, os.X_OK):
            raise ClusterError(f"LOCKSTEP_KUBE_BIN={named} is no program: correct or unset it")
        return path
    folder = cache_folder() / "kubeall" / source_hash(SOURCES, FLAGS)
    if not (folder / "kubeall").exists():
        with locked("kubeall", "building Kubernetes"):
            if not (folder / "kubeall").exists():
                _build(folder / "kubeall")
    return folder / "kubeall"


def remove_old_builds() -> None:
    """Delete builds of other sources than today's."""
    current = source_hash(SOURCES, FLAGS)
    for folder in (cache_folder() / "kubeall").glob("*"):
        if folder.name != current:
            shutil.rmtree(folder)


def tools() -> Path:
    """A folder with kubectl and helm in it, for PATH."""
    binary = kubeall()
    name = hashlib.sha256(str(binary).encode()).hexdigest()[:16]
    folder = cache_folder() / "tools" / name
    folder.mkdir(parents=True, exist_ok=True)
    for tool in TOOLS:
        link = folder / tool
        if not link.is_symlink():
            link.symlink_to(binary)
    return folder


def _build(target: Path) -> None:
    go = golang.find()
    print(f"building Kubernetes {VERSION} with {go} (once; minutes)", flush=True)
    partial = target.with_suffix(f".{os.getpid()}")
    started = time.monotonic()
    print("fetching Go modules (the first time only)", flush=True)
    total = len(golang.run_go(go, "list", "-deps", ".").split())
    with _started(go, partial) as child:
        said = _follow(child, total, started)
    if child.returncode != 0:
        raise ClusterError(f"go build failed: {last_line(said)}")
    partial.rename(target)
    print(f"built in {time.monotonic() - started:.0f} s: {target}", flush=True)


def _started(go: golang.Go, output: Path) -> "subprocess.Popen[str]":
    """A build that names each package it compiles on stderr."""
    output.parent.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        [go.program, "build", "-v", *FLAGS, "-o", str(output), "."],
        cwd=SOURCES,
        env=os.environ | golang.environment(go) | _COMPILER,
        stderr=subprocess.PIPE,
        text=True,
    )


def _follow(child: "subprocess.Popen[str]", total: int, started: float) -> str:
    """Show how far a build is: in place on a terminal, now and then elsewhere."""
    end, every_s = ("\r", 0.2) if sys.stdout.isatty() else ("\n", 20.0)
    compiled, shown, rest = 0, 0.0, []
    for line in child.stderr or ():
        if re.fullmatch(r"[\w.~/-]+\n", line):
            compiled += 1
        elif not line.startswith("go: downloading"):
            rest.append(line)
        if time.monotonic() - shown > every_s:
            shown = time.monotonic()
            print(f"  {compiled}/{total} packages, {shown - started:.0f} s", end=end, flush=True)
    return "".join(rest)
