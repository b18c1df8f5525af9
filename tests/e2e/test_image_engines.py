"""Debian's docker and podman build images that the nodes take and run."""

import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from images import choice, layout
from images.cli import layout_folder
from images.command import cache_folder
from images.engines import Engine
from images.recipe import project_version, reference
from tests.cluster import api
from tests.e2e.running import run_pod
from tests.support import engines

pytestmark = pytest.mark.cluster

RUNNING: dict[str, Callable[[Path, Path], AbstractContextManager[engines.Environment]]] = {
    "docker": engines.docker,
    "podman": engines.podman,
}


@pytest.fixture(params=RUNNING)
def environment(
    request: pytest.FixtureRequest, cluster: Path
) -> Iterator[tuple[str, engines.Environment]]:
    """An engine's name, and the environment in which it answers; its base is that of our images."""
    folder = layout_folder(cache_folder(), "prometheus")
    index = layout.read_index(folder)
    assert index is not None, "make images comes first"
    base = layout.layers(folder, index["manifests"][0])[0]
    try:
        with (
            TemporaryDirectory(prefix="engine-") as short,  # paths of sockets are
            RUNNING[request.param](Path(short), base) as environment,
        ):
            yield request.param, environment
    except engines.Unavailable as reason:
        pytest.skip(f"{request.param}: {reason}")


@pytest.fixture
def engine(
    environment: tuple[str, engines.Environment], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Engine:
    """The engine, after it has proved itself."""
    name, variables = environment
    for variable in variables.keys() - os.environ.keys() | {"PATH", "HOME"}:
        monkeypatch.setenv(variable, variables[variable])
    return choice.choose(
        name,
        tmp_path / "cache",
        log=tmp_path / "engine.log",
        refresh=False,
        among=choice.openers(tmp_path / "cache"),
    )


def test_what_it_builds_is_loaded_into_the_nodes_and_runs(
    engine: Engine, namespace: str, tmp_path: Path
) -> None:
    name = f"built-by-{engine.name}"
    full = reference(name, project_version())
    folder = tmp_path / "layout"
    folder.mkdir()
    engine.build(choice.PROBE, full, log=tmp_path / "build.log", refresh=False)
    saved = engine.export(full, folder, log=tmp_path / "build.log")
    layout.publish(folder, saved, reference=full, inputs="test")
    api.load([folder])
    assert run_pod(namespace, name, "cat", "/made").startswith("13")
