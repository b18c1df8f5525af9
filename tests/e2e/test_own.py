"""The user's own model and data, from the user's own image: docs/examples/own-model."""

from typing import Any

import pytest
import yaml

from images.cli import Builder, layout_folder
from images.command import cache_folder
from images.recipe import EXAMPLES
from tests.cluster import api
from tests.e2e.running import (
    NAMESPACE,
    ROOT,
    Json,
    apply,
    condition,
    in_phase,
    model_hash,
    watch,
)

pytestmark = pytest.mark.cluster

MANIFEST = ROOT / "docs" / "examples" / "own-model" / "job.yaml"


@pytest.fixture(scope="module", autouse=True)
def image(cluster: object) -> None:
    """The example's image, built from its Dockerfile and loaded."""
    Builder(cache_folder()).build(EXAMPLES["own-model"])
    api.load([layout_folder(cache_folder(), "own-model")])


def example(name: str, **changes: Any) -> Json:
    """The example under another name, with parts of its spec replaced."""
    job: Json = yaml.safe_load(MANIFEST.read_text())
    job["metadata"]["name"] = name
    job["spec"] |= changes
    return job


def test_the_example_reaches_its_target(lockstep: str) -> None:
    apply(NAMESPACE, example("wine"))
    job = watch(NAMESPACE, "wine", in_phase("Completed", "Failed"))
    assert condition(job, "Complete")["reason"] == "TargetReached"
    assert job["status"]["accuracy"] >= 0.93
    assert len(model_hash(NAMESPACE, "wine")) == 64


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "no-module",
            {"model": {"entrypoint": "vine.model:build"}},
            "model.entrypoint vine.model:build: the image has no module vine",
        ),
        (
            "no-function",
            {"data": {"entrypoint": "wine.data:read"}},
            "module wine.data has no function read, only load",
        ),
        (
            "bad-args",
            {"model": {"entrypoint": "wine.model:build", "args": {"width": 3}}},
            "model.args do not fit wine.model:build(hidden: int = 16)",
        ),
        (
            "no-fit",
            {"model": {"name": "mlp", "args": {"inputs": 13}}},
            "gave (4, 10), expected scores of shape (4, 3), one a class",
        ),
        (
            "too-many",
            {"data": {"entrypoint": "wine.data:load", "args": {"held_out": 0.99}}},
            "2 training examples cannot be dealt out to 3 devices: lower devices[].replicas",
        ),
    ],
)
def test_what_is_wrong_is_said_in_describe(
    lockstep: str, name: str, changes: Json, message: str
) -> None:
    apply(NAMESPACE, example(name, **changes))
    watch(NAMESPACE, name, in_phase("Failed"))
    described = api.kubectl("-n", NAMESPACE, "describe", "fj", name)
    assert message in " ".join(described.split())
    api.kubectl("-n", NAMESPACE, "delete", "fj", name, "--wait")
