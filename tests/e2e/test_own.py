"""The user's own model and data, from the user's own image: docs/examples/own-model."""

from typing import Any

import pytest
import yaml

from images.cli import Builder, layout_folder
from images.command import cache_folder
from images.recipe import EXAMPLES, Recipe, project_version, reference
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

FAULTY = Recipe("own-faulty", ("tests/e2e/faulty/faults",), "tests/e2e/faulty", "worker")
"""The image with the faults."""
MANIFEST = ROOT / "docs" / "examples" / "own-model" / "job.yaml"


@pytest.fixture(scope="module", autouse=True)
def image(cluster: object) -> None:
    """The example's image, built from its Dockerfile, and the one with the faults; both loaded."""
    builder = Builder(cache_folder())
    for recipe in (EXAMPLES["own-model"], FAULTY):
        builder.build(recipe)
    api.load([layout_folder(cache_folder(), name) for name in ("own-model", FAULTY.name)])


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


def faulty(
    name: str, model: str = "plain", data: str = "load", *, data_args: Json | None = None
) -> Json:
    """A job of two devices with these functions of the image with the faults."""
    spec: Json = {
        "image": reference(FAULTY.name, project_version()),
        "model": {"entrypoint": f"faults:{model}"},
        "data": {"entrypoint": f"faults:{data}", "args": data_args or {}},
        "training": {"rounds": 100_000, "batchSize": 16, "localSteps": {"fixed": 10}},
    }
    job = example(name, **spec)
    job["spec"]["devices"][0]["replicas"] = 2
    return job


@pytest.mark.parametrize(
    ("job", "messages"),
    [
        (
            faulty("frozen", "frozen"),
            [
                "model.entrypoint faults:frozen (/opt/own/faults/__init__.py:",
                "returned a module whose 2 parameters are all frozen (requires_grad is False)",
            ],
        ),
        (
            faulty("halves", "halves"),
            [
                "RuntimeError: ",
                " at /opt/own/faults/__init__.py:",
                "parameters are trained in float32, and were torch.bfloat16: let the model cast",
            ],
        ),
        (
            faulty("means", data_args={"means": 20}),
            [
                "data.entrypoint faults:load (/opt/own/faults/__init__.py:",
                "train.mean is an array of shape (20,): make it one number, and normalise each",
            ],
        ),
        (
            faulty("one-machine", data="load_on_first"),
            [
                "given up after 3 errors of the user's code: client lab-1: data.entrypoint ",
                "raised FileNotFoundError: no sensor on this machine at /opt/own/faults/__in",
                "1 of 2 clients are left, and participation.quorum is not set, so all are needed",
            ],
        ),
        (
            faulty("late", "late"),
            [
                "given up after 3 errors of the user's code: client lab-1: training in round 4 ",
                "raised IndexError: pass 13 has no schedule at /opt/own/faults/__init__.py:",
            ],
        ),
    ],
    ids=lambda value: value["metadata"]["name"] if isinstance(value, dict) else "",
)
def test_an_error_of_the_users_code_ends_the_job_in_words(
    lockstep: str, job: Json, messages: list[str]
) -> None:
    name = job["metadata"]["name"]
    apply(NAMESPACE, job)
    watch(NAMESPACE, name, in_phase("Failed"))
    described = " ".join(api.kubectl("-n", NAMESPACE, "describe", "fj", name).split())
    print(described)
    assert [message for message in messages if message not in described] == []
    api.kubectl("-n", NAMESPACE, "delete", "fj", name, "--wait")
