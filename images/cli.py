"""The image builder's command line: builds what changed, prints seconds and sizes, pushes.

`make images` calls `images/build.py`, `make push` calls `images/build.py push --registry R`.
Invariant: an image whose inputs did not change is not touched, and no engine is even asked.
"""

import argparse
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from images import layout
from images.alone import alone
from images.choice import NAMES, VARIABLE, choose, openers
from images.command import ImageError, cache_folder
from images.engines import Engine
from images.recipe import EXAMPLES, RECIPES, Recipe, inputs_hash, project_version, reference
from images.undated import undated

COMMANDS = ("build", "push", "paths")
_EPILOG = """\
build   (the default) builds the images whose files changed, as OCI layout folders
push    builds, then pushes to --registry R as R/lockstep-NAME:VERSION
paths   prints the layout folders
"""


def layout_folder(cache: Path, name: str) -> Path:
    return cache / "images" / name


def push_target(registry: str, name: str, *, version: str) -> str:
    return f"{registry.removesuffix('/')}/lockstep-{name}:{version}"


def split_words(words: list[str]) -> tuple[str, list[Recipe]]:
    """The command and the images that the words name; all images when they name none."""
    command, names = (
        (words[0], words[1:]) if words[:1] and words[0] in COMMANDS else ("build", words)
    )
    every = RECIPES | EXAMPLES
    if unknown := [name for name in names if name not in every]:
        known = ", ".join(every)
        raise ImageError(f"there is no image {unknown[0]!r}: choose from {known}")
    return command, [every[name] for name in names or RECIPES]


def wanted_engine(named: str | None, environment: Mapping[str, str]) -> str | None:
    """The engine that the command line names, else the environment; None: whichever works."""
    wanted = named or environment.get(VARIABLE) or None
    if wanted not in (None, *NAMES):
        raise ImageError(f"{VARIABLE}={wanted} is no engine: say {', '.join(NAMES)} or unset it")
    return wanted


class Builder:
    """Builds images into one cache folder, by an engine that is chosen when first needed."""

    def __init__(self, cache: Path, *, engine: str | None = None, refresh: bool = False) -> None:
        self.cache = cache
        self.version = project_version()
        self.wanted = engine
        self.refresh = refresh
        self._engine: Engine | None = None

    def log(self, name: str) -> Path:
        return self.cache / "logs" / f"{name}.log"

    def engine(self) -> Engine:
        if self._engine is None:
            self._engine = choose(
                self.wanted,
                self.cache,
                log=self.log("engine"),
                refresh=self.refresh,
                among=openers(self.cache),
            )
        return self._engine

    def build(self, recipe: Recipe) -> None:
        folder = layout_folder(self.cache, recipe.name)
        started = time.monotonic()
        inputs = inputs_hash(recipe, self.version)
        if not self.refresh and layout.built_from(folder) == inputs:
            print(f"{recipe.name}: unchanged, {_megabytes(folder)}")
            return
        engine = self.engine()
        print(f"{recipe.name}: building with {engine.name}", flush=True)
        built, layers = self._build(engine, recipe, folder=folder, inputs=inputs)
        print(
            f"{recipe.name}: {_megabytes(folder)} in {time.monotonic() - started:.1f} s "
            f"(built {built:.1f} s, layers written {layers:.1f} s)"
        )

    def _build(
        self, engine: Engine, recipe: Recipe, *, folder: Path, inputs: str
    ) -> tuple[float, float]:
        log = self.log(recipe.name)
        log.unlink(missing_ok=True)
        name = reference(recipe.name, self.version)
        started = time.monotonic()
        engine.build(recipe, name, log=log, refresh=self.refresh)
        built = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        saved = undated(folder, engine.export(name, folder, log=log))
        layout.publish(folder, saved, reference=name, inputs=inputs)
        return built - started, time.monotonic() - built

    def push(self, recipe: Recipe, registry: str) -> None:
        engine = self.engine()
        name = reference(recipe.name, self.version)
        log = self.log(recipe.name)
        engine.build(recipe, name, log=log, refresh=False)  # all from the engine's cache
        target = push_target(registry, recipe.name, version=self.version)
        engine.push(name, target, log=log)
        print(f"{recipe.name}: pushed {target}")


def _megabytes(folder: Path) -> str:
    return f"{sum(layout.contents(folder).values()) / 1e6:.0f} MB"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="images/build.py",
        description="Builds Lockstep's container images.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", metavar="COMMAND or IMAGE", help=", ".join(RECIPES))
    parser.add_argument("--engine", choices=NAMES, help=f"not the first that works (or {VARIABLE})")
    parser.add_argument("--refresh", action="store_true", help="anew, from a new Debian base")
    parser.add_argument("--registry", help="where push pushes to")
    return parser


def _work(arguments: argparse.Namespace) -> None:
    command, recipes = split_words(arguments.words)
    cache = cache_folder()
    if command == "paths":
        print(*(layout_folder(cache, recipe.name) for recipe in recipes), sep="\n")
        return
    if command == "push" and not arguments.registry:
        raise ImageError("push where? Say --registry registry.example.org/team")
    engine = wanted_engine(arguments.engine, os.environ)
    builder = Builder(cache, engine=engine, refresh=arguments.refresh)
    with alone(cache):
        for recipe in recipes:
            builder.build(recipe)
        if command == "push":
            for recipe in recipes:
                builder.push(recipe, arguments.registry)


def main() -> int:
    try:
        _work(_parser().parse_intermixed_args())
    except ImageError as error:
        print(f"images: {error}", file=sys.stderr)
        return 1
    return 0
