"""Fixtures of the end-to-end tests: a real cluster with the images in it.

A cluster that was up stays up; one that was brought up for the tests is taken down after them.
"""

import uuid
from collections.abc import Iterator
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
        yield kubeconfig
    finally:
        if not was_up:
            api.down()


@pytest.fixture
def namespace(cluster: Path) -> Iterator[str]:
    """A namespace of its own, removed with everything in it."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    api.kubectl("create", "namespace", name)
    yield name
    api.kubectl("delete", "namespace", name, "--wait=false")
