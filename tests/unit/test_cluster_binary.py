"""When kubeall is built anew, and by whom."""

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cluster import binary, golang
from tests.cluster.binary import FLAGS, source_hash
from tests.cluster.errors import ClusterError
from tests.cluster.layout import PAUSE_IMAGE
from tests.cluster.oci import read_images
from tests.cluster.pause import pause_layout
from tests.support.patience import PATIENCE_S


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    for name in ("main.go", "go.mod", "go.sum"):
        (tmp_path / name).write_text(name)
    return tmp_path


def test_equal_sources_have_one_hash(sources: Path) -> None:
    before = source_hash(sources, FLAGS)
    (sources / "notes.txt").write_text("not an input")
    assert source_hash(sources, FLAGS) == before


@pytest.mark.parametrize("name", ["main.go", "go.mod", "go.sum", "more/new.go"])
def test_every_input_changes_the_hash(sources: Path, name: str) -> None:
    before = source_hash(sources, FLAGS)
    (sources / name).parent.mkdir(exist_ok=True)
    (sources / name).write_text("changed")
    assert source_hash(sources, FLAGS) != before


def test_flags_change_the_hash(sources: Path) -> None:
    assert source_hash(sources, FLAGS) != source_hash(sources, (*FLAGS, "-race"))


def test_a_named_binary_must_be_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCKSTEP_KUBE_BIN", "/nowhere/kubeall")
    with pytest.raises(ClusterError, match="correct or unset"):
        binary.kubeall()
    monkeypatch.setenv("LOCKSTEP_KUBE_BIN", "/bin/sh")
    assert binary.kubeall() == Path("/bin/sh").resolve()


def test_one_process_builds_and_the_other_takes_what_it_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `make demo` does it: a build in the background, and `up` that needs it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("LOCKSTEP_KUBE_BIN", raising=False)
    builds: list[Path] = []
    begun, may_end = threading.Event(), threading.Event()

    def build(target: Path) -> None:
        builds.append(target)
        begun.set()
        assert may_end.wait(PATIENCE_S)
        target.parent.mkdir(parents=True)
        target.touch()

    monkeypatch.setattr(binary, "_build", build)
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(binary.kubeall)
        assert begun.wait(PATIENCE_S)
        second = pool.submit(binary.kubeall)
        may_end.set()
        assert first.result() == second.result() == builds[0]
    assert len(builds) == 1


def test_a_named_binary_needs_no_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def no_go() -> None:
        raise AssertionError("Go was looked for")

    monkeypatch.setattr(golang, "find", no_go)
    monkeypatch.setenv("LOCKSTEP_KUBE_BIN", "/bin/sh")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert binary.kubeall() == Path("/bin/sh").resolve()
    (image,) = read_images(pause_layout())
    assert image.name == PAUSE_IMAGE
