"""The cluster that the end-to-end tests share: there, with the images, and with no other operator.

A cluster that was up stays up; one that was brought up for the tests is taken down after them.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from images.cli import layout_folder
from images.command import cache_folder
from images.recipe import RECIPES
from tests.cluster import api
from tests.cluster.errors import ClusterError

KUBECONFIG_OF_ALL = "LOCKSTEP_TESTS_KUBECONFIG"
"""Set for test processes whose cluster somebody else keeps up."""


@contextmanager
def ready_cluster() -> Iterator[Path]:
    """The kubeconfig of a cluster that is up and has the images.

    Raises:
        ClusterError: it cannot be brought up, or images are not built.
    """
    folders = [layout_folder(cache_folder(), name) for name in RECIPES]
    if missing := [folder.name for folder in folders if not (folder / "index.json").exists()]:
        raise ClusterError(f"images not built: {', '.join(missing)}: run `make images`")
    was_up = api.is_up()
    kubeconfig = api.up()
    try:
        api.load(folders)
        with _other_operators_paused():
            yield kubeconfig
    finally:
        if not was_up:
            api.down()


@contextmanager
def _other_operators_paused() -> Iterator[None]:
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
