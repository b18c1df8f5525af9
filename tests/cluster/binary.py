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

from tests.cluster.command import last_line, run
from tests.cluster.errors import ClusterError
from tests.cluster.layout import cache_folder

SOURCES = Path(__file__).parent / "kubeall"
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
    f"-ldflags={' '.join(['-s', '-w', '-buildid=', *_VERSION_FLAGS])}",
)
ENVIRONMENT = {"CGO_ENABLED": "0", "GOFLAGS": "", "GOTOOLCHAIN": "local"}


def source_hash(sources: Path, flags: Iterable[str]) -> str:
    """A name for what a build makes of these sources: equal inputs, equal name."""
    digest = hashlib.sha256("\0".join(flags).encode())
    for path in sorted(p for p in sources.rglob("*") if p.suffix in {".go", ".mod", ".sum"}):
        digest.update(f"\0{path.relative_to(sources)}\0".encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def kubeall() -> Path:
    """The binary: the named one, the cached one, or a newly built one."""
    if named := os.environ.get("LOCKSTEP_KUBE_BIN"):
        path = Path(named).resolve()
        if not os.access(path, os.X_OK):
            raise ClusterError(f"LOCKSTEP_KUBE_BIN={named} is no program: correct or unset it")
        return path
    folder = cache_folder() / "kubeall" / source_hash(SOURCES, FLAGS)
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


def go_build(package: str, output: Path, flags: Iterable[str]) -> "subprocess.Popen[str]":
    """Start building one package of the module; it names each package it compiles on stderr."""
    output.parent.mkdir(parents=True, exist_ok=True)
    return subprocess.Popen(
        ["go", "build", "-v", *flags, "-o", str(output), package],
        cwd=SOURCES,
        env=os.environ | ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
    )


def check_go() -> None:
    """Go must be there, and new enough for go.mod."""
    wanted = go_version((SOURCES / "go.mod").read_text())
    try:
        found = run("go", "version")
    except ClusterError as error:
        raise ClusterError(
            f"no Go: install Go {'.'.join(map(str, wanted))} or newer and put it in PATH"
        ) from error
    if go_version(found) < wanted:
        raise ClusterError(
            f"{found.strip()} is too old: install Go {'.'.join(map(str, wanted))} or newer"
        )


def go_version(text: str) -> tuple[int, ...]:
    match = re.search(r"\bgo ?(\d+(?:\.\d+)+)", text)
    if match is None:
        raise ClusterError(f"{text[:60]!r} names no version of Go")
    return tuple(int(number) for number in match[1].split("."))


def _build(target: Path) -> None:
    check_go()
    print(f"building Kubernetes {VERSION} (once; about 5 minutes on 2 cores)", flush=True)
    partial = target.with_suffix(f".{os.getpid()}")
    started = time.monotonic()
    total = len(_go_list().split())
    with go_build(".", partial, FLAGS) as child:
        said = _follow(child, total, started)
    if child.returncode != 0:
        raise ClusterError(f"go build failed: {last_line(said)}")
    partial.rename(target)
    print(f"built in {time.monotonic() - started:.0f} s: {target}", flush=True)


def _go_list() -> str:
    command = ["go", "list", "-deps", "."]
    print("fetching Go modules (the first time only)", flush=True)
    environment = os.environ | ENVIRONMENT
    done = subprocess.run(
        command, cwd=SOURCES, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ClusterError(f"go cannot fetch the modules: {last_line(done.stderr)}")
    return done.stdout


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
