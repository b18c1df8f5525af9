"""`lockstep examples`: what docs/examples has, printed and written, from the wheel too."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests.support.cli import Lockstep

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "docs" / "examples"
FILES = sorted(
    str(one.relative_to(EXAMPLES))
    for one in EXAMPLES.rglob("*")
    if one.is_file() and "__pycache__" not in one.parts
)


def test_all_are_listed_with_what_they_show(lockstep: Lockstep) -> None:
    ran = lockstep("examples")
    listed = {line.split()[0]: line.split(maxsplit=1)[1] for line in ran.lines[1:]}
    assert set(listed) == {name.partition("/")[0].removesuffix(".yaml") for name in FILES}
    assert listed["fashion-mnist"] == "Eight devices of three speeds learn Fashion-MNIST together"


@pytest.mark.parametrize(
    ("name", "file"), [("split", "split.yaml"), ("own-model", "own-model/job.yaml")]
)
def test_one_is_printed_as_it_is(lockstep: Lockstep, name: str, file: str) -> None:
    ran = lockstep("examples", name)
    assert (ran.code, ran.out) == (0, (EXAMPLES / file).read_text())


def test_all_are_written_as_they_are(lockstep: Lockstep, tmp_path: Path) -> None:
    assert lockstep("examples", "-o", str(tmp_path / "new")).code == 0
    for name in FILES:
        assert (tmp_path / "new" / name).read_bytes() == (EXAMPLES / name).read_bytes()


def test_nothing_is_written_over_what_is_there(lockstep: Lockstep, tmp_path: Path) -> None:
    (tmp_path / "split.yaml").write_text("mine")
    ran = lockstep("examples", "-o", str(tmp_path))
    assert ran.code == 1
    assert "split.yaml is there already" in ran.err
    assert [one.name for one in tmp_path.iterdir() if one.name != "kubeconfig"] == ["split.yaml"]
    assert (tmp_path / "split.yaml").read_text() == "mine"


def test_an_unknown_one_is_told_with_those_that_there_are(lockstep: Lockstep) -> None:
    ran = lockstep("examples", "mnist")
    assert ran.code == 5
    assert "there is no example mnist: there are calibrated, fashion-mnist" in ran.err


def test_the_wheel_has_them(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in ("operator", "workers", "docs/examples"):
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    build = "from setuptools.build_meta import build_wheel; build_wheel('..')"
    subprocess.run([sys.executable, "-c", build], cwd=tree, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as packed:
        found = set(packed.namelist())
    assert {f"lockstep_cli/examples/{name}" for name in FILES} <= found
