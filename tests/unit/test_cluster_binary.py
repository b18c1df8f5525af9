"""When kubeall is built anew, and which Go builds it."""

from pathlib import Path

import pytest

from tests.cluster import binary
from tests.cluster.binary import FLAGS, SOURCES, go_version, source_hash
from tests.cluster.errors import ClusterError


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


def test_go_versions_compare() -> None:
    wanted = go_version((SOURCES / "go.mod").read_text())
    assert go_version("go version go1.26.8 linux/amd64") >= wanted
    assert go_version("go version go1.19.8 linux/amd64") < wanted


def test_old_go_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(binary, "run", lambda *_: "go version go1.19.8 linux/amd64")
    with pytest.raises(ClusterError, match=r"too old: install Go 1\.26"):
        binary.check_go()
