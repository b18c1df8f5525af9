"""Owns what the images are: names, Dockerfiles, and the files that each is made from.

Called by `cli` (what to build, what may be skipped) and the engines. Invariant: `inputs_hash`
changes exactly when the content, name or executable bit of a file that reaches the image changes,
or the base that was asked for.
"""

import hashlib
import os
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PREFIX = "lockstep.local"
BASE_VARIABLE = "LOCKSTEP_BASE"
_IGNORED = frozenset({"__pycache__", ".mypy_cache", ".ruff_cache"})


@dataclass(frozen=True, slots=True)
class Recipe:
    name: str
    inputs: tuple[str, ...]
    """Files and folders of the repository that the Dockerfile copies."""
    folder: str = ""
    """Folder of a Dockerfile with a context of its own; empty: one of ours, with the repository."""
    base: str = ""
    """Our image that it is built on; empty: Debian."""

    @property
    def dockerfile(self) -> str:
        return f"{self.folder}/Dockerfile" if self.folder else f"images/{self.name}.Dockerfile"


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "operator",
            (
                "requirements/operator.lock",
                "operator/lockstep_api",
                "operator/lockstep_allocator",
                "operator/lockstep_serving",
                "operator/lockstep_operator",
            ),
        ),
        Recipe(
            "worker",
            (
                "requirements/worker.lock",
                "operator/lockstep_api",
                "operator/lockstep_allocator",
                "operator/lockstep_serving",
                "workers/lockstep_workers",
            ),
        ),
        Recipe("prometheus", ()),
    )
}

EXAMPLES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "own-model",
            ("docs/examples/own-model/wine",),
            folder="docs/examples/own-model",
            base="worker",
        ),
    )
}
"""Images of the examples: built when they are named."""


def project_version(root: Path = ROOT) -> str:
    return str(tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"])


def reference(name: str, version: str) -> str:
    return f"{PREFIX}/{name}:{version}"


def wanted_base() -> str:
    """The base image that was asked for, best by its digest; empty: that of the Dockerfiles."""
    return os.environ.get(BASE_VARIABLE, "")


def input_files(recipe: Recipe, root: Path = ROOT) -> Iterator[Path]:
    for entry in (recipe.dockerfile, *recipe.inputs):
        path = root / entry
        found = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (file for file in found if file.is_file() and not _ignored(file))


def _ignored(file: Path) -> bool:
    return file.suffix == ".pyc" or not _IGNORED.isdisjoint(file.parts)


def inputs_hash(recipe: Recipe, version: str, *, root: Path = ROOT) -> str:
    digest = hashlib.sha256((reference(recipe.name, version) + wanted_base()).encode())
    for file in input_files(recipe, root):
        content = file.read_bytes()
        mode = "x" if file.stat().st_mode & 0o100 else "-"
        digest.update(f"\0{file.relative_to(root)}\0{mode}{len(content)}\0".encode())
        digest.update(content)
    if recipe.base:
        digest.update(inputs_hash(RECIPES[recipe.base], version, root=root).encode())
    return digest.hexdigest()
