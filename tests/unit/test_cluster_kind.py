"""What the kind driver asks of kind and the engine; nothing here needs either."""

import json
import os
import stat
from pathlib import Path

import pytest

from tests.cluster.drivers import driver_for
from tests.cluster.errors import ClusterError
from tests.cluster.kind import Kind, engine, kind_config
from tests.cluster.layout import Layout


def program(folder: Path, name: str, script: str) -> None:
    """A program in PATH that notes its words."""
    path = folder / name
    path.write_text(f'#!/bin/sh\necho "{name} $*" >> {folder}/calls\n{script}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing but what a test puts there."""
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/bin")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("shutil.which", lambda name: _which(tmp_path, name))
    monkeypatch.delenv("KIND_EXPERIMENTAL_PROVIDER", raising=False)
    return tmp_path


def _which(folder: Path, name: str) -> str | None:
    return str(folder / name) if (folder / name).exists() else None


def test_every_node_of_the_layout_is_a_labelled_worker() -> None:
    config = kind_config(Layout())
    assert config["nodes"] == [
        {"role": "control-plane"},
        *({"role": "worker", "labels": {"lockstep.dev/tier": tier}}
          for tier in ("cloud", "edge", "device")),
    ]  # fmt: skip


def test_without_an_engine_or_kind_it_says_what_is_missing(bin_folder: Path) -> None:
    with pytest.raises(ClusterError, match="needs Docker or Podman, and neither answers"):
        engine()
    with pytest.raises(ClusterError, match="CLUSTER=kind needs kind: install it"):
        Kind(Layout()).up()


def test_a_docker_client_without_a_daemon_is_no_engine(bin_folder: Path) -> None:
    program(bin_folder, "docker", "exit 1")
    program(bin_folder, "podman", "echo 5.0")
    assert engine() == "podman"


def test_up_load_and_down_are_what_kind_documents(bin_folder: Path) -> None:
    program(bin_folder, "docker", "echo 29.0")
    program(bin_folder, "kind", 'test "$1 $2" = "get clusters" && cat clusters 2>/dev/null; true')
    driver = Kind(Layout(name="lab"))
    path = driver.up()
    calls = (bin_folder / "calls").read_text().splitlines()
    config = path.parent / "kind.json"
    assert calls[-1] == (
        f"kind create cluster --name lab --config {config} --kubeconfig {path} --wait 180s"
    )
    assert json.loads(config.read_text()) == kind_config(driver.layout)
    assert os.environ["KIND_EXPERIMENTAL_PROVIDER"] == "docker"

    layout = bin_folder / "worker"
    (layout / "blobs").mkdir(parents=True)
    (layout / "index.json").write_text("{}")
    (layout / "made-from").write_text("not part of an image")
    program(bin_folder, "kind", f'tar tf "$3" > {bin_folder}/packed')
    driver.load([layout])
    assert "load image-archive" in (bin_folder / "calls").read_text().splitlines()[-1]
    assert set((bin_folder / "packed").read_text().split()) == {"blobs/", "index.json"}


def test_the_environment_chooses_it() -> None:
    assert isinstance(driver_for({"CLUSTER": "kind"}, Layout()), Kind)
