"""The built images: small, without leftovers, and running as non-root on a read-only root."""

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from images import layout
from images.cli import layout_folder
from images.command import cache_folder
from images.merged import opened
from images.recipe import RECIPES
from tests.e2e.running import run_pod

pytestmark = pytest.mark.cluster

# Of the operator scipy, for objective sum, is a quarter.
LIMITS_BYTES = {"operator": 430e6, "worker": 1700e6, "prometheus": 300e6}
DEBIANS_PYTHON = "usr/lib/python3/dist-packages/"
UNUSED = {
    "requests",
    "urllib3",
    "certifi",
    "idna",
    "hypothesis",
    "psutil",
    "networkx",
    "setuptools",
}
LEFTOVERS = ("var/lib/apt/lists/", "var/cache/apt/", "root/.cache/", "tmp/", "run/secrets/")
WORKER = """
import json, os, sys, torch, uvicorn
torch.ones(64, 64) @ torch.ones(64, 64)
try:
    writable = bool(open("/opt/lockstep/lib/x", "w"))
except OSError:
    writable = False
print(json.dumps({
    "uid": os.getuid(),
    "writable": writable,
    "openblas": "/libopenblas" in open("/proc/self/maps").read(),
    "compiled": os.path.exists(uvicorn.__cached__) and os.path.exists(torch.__cached__),
    "data": sorted(os.listdir("/usr/share/datasets/fashion-mnist")),
}))
"""

Json = dict[str, Any]


@pytest.fixture(params=list(RECIPES))
def image(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def folder(image: str) -> Path:
    return layout_folder(cache_folder(), image)


def manifest(image: str) -> Json:
    index = layout.read_index(folder(image))
    assert index is not None, "make images comes first"
    path = layout.blob(folder(image), index["manifests"][0]["digest"])
    return dict(json.loads(path.read_text()))


def files(image: str) -> Iterator[str]:
    for layer in manifest(image)["layers"]:
        with tarfile.open(layout.blob(folder(image), layer["digest"])) as tar:
            yield from (member.name.removeprefix("./") for member in tar if member.isreg())


def test_size(image: str) -> None:
    assert sum(layout.contents(folder(image)).values()) < LIMITS_BYTES[image]


def test_user_is_numeric_and_not_root(image: str) -> None:
    path = layout.blob(folder(image), manifest(image)["config"]["digest"])
    assert json.loads(path.read_text())["config"]["User"] == "65532:65532"


def test_no_package_manager_leftovers(image: str) -> None:
    found = [name for name in files(image) if name.startswith(LEFTOVERS)]
    marks = ("lock", ".wh.")  # apt's empty lock files; whiteouts, which take files away
    assert [name for name in found if not name.rpartition("/")[2].startswith(marks)] == []


def test_no_file_gives_its_caller_the_rights_of_another(image: str) -> None:
    with opened(folder(image)) as root:
        found = [
            path for path, one in root.items() if one.member.isreg() and one.member.mode & 0o6000
        ]
    assert found == []


def test_what_nothing_of_ours_imports_is_not_in_the_worker() -> None:
    with opened(folder("worker")) as root:
        there = {path.split("/")[4] for path in root if path.startswith(DEBIANS_PYTHON)}
    assert "torch" in there
    assert there & UNUSED == set()


def test_worker_runs_on_a_read_only_root_with_openblas(namespace: str) -> None:
    seen = json.loads(run_pod(namespace, "worker", "python3", "-c", WORKER))
    assert seen["uid"] == 65532
    assert not seen["writable"]
    assert seen["openblas"]
    assert seen["compiled"]
    assert len(seen["data"]) == 4


def test_operator_runs_without_torch(namespace: str) -> None:
    code = "import kopf, kubernetes.aio.dynamic, numpy, importlib.util; "
    code += "print(importlib.util.find_spec('torch'))"
    assert run_pod(namespace, "operator", "python3", "-c", code).strip() == "None"


def test_prometheus_runs(namespace: str) -> None:
    assert "prometheus, version" in run_pod(namespace, "prometheus", "prometheus", "--version")
