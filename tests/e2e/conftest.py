"""Fixtures of the end-to-end tests: a real cluster with the images in it.

A cluster that was up stays up; one that was brought up for the tests is taken down after them.
"""

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from images.cli import layout_folder
from images.command import cache_folder
from images.recipe import RECIPES
from tests.cluster import api


@pytest.fixture(scope="session")
def cluster() -> Iterator[Path]:
    """The kubeconfig of a cluster that is up and has the images."""
    folders = [layout_folder(cache_folder(), name) for name in RECIPES]
    if missing := [folder.name for folder in folders if not (folder / "index.json").exists()]:
        pytest.fail(f"images not built: {', '.join(missing)}: run `make images`")
    was_up = api.is_up()
    kubeconfig = api.up()
    try:
        api.load(folders)
        with other_operators_paused():
            yield kubeconfig
    finally:
        if not was_up:
            api.down()


@contextmanager
def other_operators_paused() -> Iterator[None]:
    """An operator that was installed before, by `make demo` say, would run the tests' jobs, too."""
    label = "app.kubernetes.io/part-of=lockstep,app.kubernetes.io/component=operator"
    found = json.loads(api.kubectl("get", "deployments", "-A", "-l", label, "-o", "json"))["items"]
    for each in found:
        _scale(each["metadata"], 0)
    try:
        yield
    finally:
        if api.is_up():
            for each in found:
                _scale(each["metadata"], each["spec"]["replicas"])


def _scale(deployment: dict[str, str], replicas: int) -> None:
    name = f"deployment/{deployment['name']}"
    api.kubectl("-n", deployment["namespace"], "scale", name, f"--replicas={replicas}")


@pytest.fixture
def namespace(cluster: Path) -> Iterator[str]:
    """A namespace of its own, removed with everything in it."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    api.kubectl("create", "namespace", name)
    yield name
    api.kubectl("delete", "namespace", name, "--wait=false")
