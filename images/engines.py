"""Owns the tools that build images: docker and podman when one answers, else Debian's buildah.

Called by `cli`. Each engine builds a recipe's Dockerfile, exports it into an OCI layout folder with
uncompressed layers (what a cluster on this machine takes fastest), and pushes it. The command lines
are pure functions, so that tests read them without an engine.
"""

import os
import shutil
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from images import buildah, layout
from images.command import ImageError, answers, run
from images.recipe import ROOT, Recipe

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
    if index := os.environ.get("PIP_INDEX_URL"):
        arguments += ["--build-arg", f"PIP_INDEX_URL={index}"]
    if refresh:
        arguments.append("--no-cache")
    return arguments


@dataclass(frozen=True, slots=True)
class Docker:
    name: str = "docker"

    def prepare(self, log: Path, *, refresh: bool) -> None:
        """The daemon pulls the base itself."""

    def build_command(self, recipe: Recipe, reference: str, *, refresh: bool) -> list[str]:
        common = common_arguments(recipe, reference, refresh=refresh)
        pull = ["--pull"] if refresh else []
        plain = ["--progress=plain", "--provenance=false"]
        return ["docker", "build", *plain, *pull, *common, context(recipe)]

    def build(self, recipe: Recipe, reference: str, *, log: Path, refresh: bool) -> None:
        command = self.build_command(recipe, reference, refresh=refresh)
        run(command, log=log, env={"DOCKER_BUILDKIT": "1"})

    def export(self, reference: str, folder: Path, *, log: Path) -> layout.Json:
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            archive = Path(scratch) / "image.tar"
            run(["docker", "save", "--output", str(archive), reference], log=log)
            with tarfile.open(archive) as tar:
                tar.extractall(Path(scratch) / "layout", filter="data")
            return layout.adopt(Path(scratch) / "layout", folder)

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
        if not recipe.base:
            base += ["--build-arg", f"BASE={buildah.BASE}"]
        ignore = ["--ignorefile", str(ROOT / "images" / "context.ignore")]
        return [*self.storage.buildah("bud", "--layers"), *base, *ignore, *common, context(recipe)]

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


def choose(wanted: str | None, cache: Path) -> Engine:
    """The engine asked for, else the first that answers, else buildah."""
    if wanted in (None, "docker") and _answers("docker", "version"):
        return Docker()
    if wanted in (None, "podman") and _answers("podman", "info"):
        return Podman()
    if wanted in (None, "buildah"):
        return Buildah(buildah.open_storage(cache / "buildah"))
    raise ImageError(f"{wanted} does not answer: start it, or leave out --engine")


def _answers(program: str, question: str) -> bool:
    return shutil.which(program) is not None and answers([program, question])
