"""Owns the tools that build images: docker, podman and Debian's buildah, and what each can do.

Called by `choice` (which of them) and `cli`. Each builds a recipe's Dockerfile, exports it into an
OCI layout folder with uncompressed layers (what a cluster on this machine takes fastest), and
pushes it. What an engine can do is asked of it, never read from its version. The command lines are
pure functions, so that tests read them without an engine.
"""

import os
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from images import buildah, layout
from images.command import ImageError, output, run, unpack
from images.recipe import ROOT, Recipe, wanted_base

BUILDKIT = {"DOCKER_BUILDKIT": "1"}
_SECRET = "--secret"
CA_BUNDLE = Path("/etc/ssl/certs/ca-certificates.crt")


class Engine(Protocol):
    @property
    def name(self) -> str: ...

    def prepare(self, log: Path, *, refresh: bool) -> None:
        """Make sure that the engine can build; with `refresh`, from a new base."""

    def build(self, recipe: Recipe, reference: str, *, log: Path, refresh: bool) -> None: ...

    def export(self, reference: str, folder: Path, *, log: Path) -> layout.Json:
        """Add the image's blobs to a layout folder; returns the descriptor of its manifest."""
        ...

    def push(self, reference: str, target: str, *, log: Path) -> None: ...


def context(recipe: Recipe) -> str:
    """The folder that a Dockerfile's COPY sees."""
    return str(ROOT / recipe.folder)


def common_arguments(recipe: Recipe, reference: str, *, refresh: bool) -> list[str]:
    """What docker, podman and buildah take alike."""
    arguments = ["--tag", reference, "--file", str(ROOT / recipe.dockerfile)]
    if (
        CA_BUNDLE.exists()
    ):  # for pip behind a TLS-inspecting proxy; nothing of it stays in the image
        arguments += ["--secret", f"id=ca,src={CA_BUNDLE}"]
    if (base := wanted_base()) and not recipe.base:
        arguments += ["--build-arg", f"BASE={base}"]
    if index := os.environ.get("PIP_INDEX_URL"):
        arguments += ["--build-arg", f"PIP_INDEX_URL={index}"]
    if refresh:
        arguments.append("--no-cache")
    return arguments


@dataclass(frozen=True, slots=True)
class Docker:
    flags: frozenset[str] = frozenset({"--progress", "--provenance", "--load"})
    """Of what Dockers take since some version, or with buildx alone, what this one takes."""
    name: str = "docker"

    def prepare(self, log: Path, *, refresh: bool) -> None:
        """The daemon pulls the base itself."""

    def build_command(self, recipe: Recipe, reference: str, *, refresh: bool) -> list[str]:
        common = common_arguments(recipe, reference, refresh=refresh)
        pull = ["--pull"] if refresh else []
        asked = ("--progress=plain", "--provenance=false", "--load")
        known = [flag for flag in asked if flag.partition("=")[0] in self.flags]
        return ["docker", "build", *known, *pull, *common, context(recipe)]

    def build(self, recipe: Recipe, reference: str, *, log: Path, refresh: bool) -> None:
        command = self.build_command(recipe, reference, refresh=refresh)
        run(command, log=log, env=BUILDKIT)

    def export(self, reference: str, folder: Path, *, log: Path) -> layout.Json:
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            unpack(["docker", "save", reference], Path(scratch), log=log)
            return layout.adopt(Path(scratch), folder)

    def push(self, reference: str, target: str, *, log: Path) -> None:
        run(["docker", "tag", reference, target], log=log)
        run(["docker", "push", target], log=log)


@dataclass(frozen=True, slots=True)
class Podman:
    name: str = "podman"

    def prepare(self, log: Path, *, refresh: bool) -> None:
        """Podman pulls the base itself."""

    def build_command(self, recipe: Recipe, reference: str, *, refresh: bool) -> list[str]:
        common = common_arguments(recipe, reference, refresh=refresh)
        pull = ["--pull=always"] if refresh else []
        return ["podman", "build", "--layers", *pull, *common, context(recipe)]

    def build(self, recipe: Recipe, reference: str, *, log: Path, refresh: bool) -> None:
        run(self.build_command(recipe, reference, refresh=refresh), log=log)

    def export(self, reference: str, folder: Path, *, log: Path) -> layout.Json:
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            exported = Path(scratch) / "layout"
            save = ["podman", "save", "--format", "oci-dir", "--uncompressed"]
            run([*save, "--output", str(exported), reference], log=log)
            return layout.adopt(exported, folder)

    def push(self, reference: str, target: str, *, log: Path) -> None:
        run(["podman", "push", reference, target], log=log)


@dataclass(frozen=True, slots=True)
class Buildah:
    storage: buildah.Storage
    name: str = "buildah"

    def prepare(self, log: Path, *, refresh: bool) -> None:
        buildah.prepare(self.storage, log, refresh=refresh)

    def build_command(self, recipe: Recipe, reference: str, *, refresh: bool) -> list[str]:
        common = common_arguments(recipe, reference, refresh=refresh)
        base = ["--pull=never" if recipe.base else "--pull=false"]
        if not (recipe.base or wanted_base()):
            base += ["--build-arg", f"BASE={buildah.BASE}"]
        ignore = ["--ignorefile", str(ROOT / "images" / "context.ignore")]
        return [
            *self.storage.buildah("bud", "--layers", "--no-hosts"),
            *base,
            *ignore,
            *common,
            context(recipe),
        ]

    def build(self, recipe: Recipe, reference: str, *, log: Path, refresh: bool) -> None:
        command = self.build_command(recipe, reference, refresh=refresh)
        run(command, log=log, env=buildah.ENVIRONMENT)

    def export(self, reference: str, folder: Path, *, log: Path) -> layout.Json:
        (folder / "index.json").unlink(missing_ok=True)  # skopeo would add to it
        run(buildah.export_command(self.storage, reference, folder=folder), log=log)
        buildah.release(self.storage)
        index = layout.read_index(folder)
        if index is None:
            raise ImageError(f"skopeo wrote no index into {folder}; what it said is in {log}")
        return dict(index["manifests"][0])

    def push(self, reference: str, target: str, *, log: Path) -> None:
        command = self.storage.buildah("push", reference, f"docker://{target}")
        run(command, log=log, env=buildah.ENVIRONMENT)
        buildah.release(self.storage)


def open_docker() -> Docker:
    """Docker, if its daemon answers and it builds with BuildKit; else says what it lacks."""
    output(["docker", "version"])
    said = output(["docker", "build", "--help"], env=BUILDKIT)
    return Docker(_flags_in(said, needed=_SECRET) & Docker().flags)


def open_podman() -> Podman:
    """Podman, if it answers and knows build secrets; else says what it lacks."""
    output(["podman", "info"])
    _flags_in(output(["podman", "build", "--help"]), needed=_SECRET)
    return Podman()


def open_buildah(cache: Path) -> Buildah:
    """Buildah on a storage of ours; it and the base are brought when it is prepared."""
    return Buildah(buildah.open_storage(cache / "buildah"))


def _flags_in(said: str, *, needed: str) -> frozenset[str]:
    flags = frozenset(re.findall(r"^ +(?:-\w, )?(--[a-z-]+)", said, re.MULTILINE))
    if needed not in flags:
        raise ImageError(f"its build knows no {needed}")
    return flags
