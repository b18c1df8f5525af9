"""`lockstep examples`: the manifests of docs/examples, which the package brings along."""

from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import takewhile
from pathlib import Path
from typing import Annotated

import typer

from lockstep_cli.errors import CliError, NotFound
from lockstep_cli.shown import console, out, say, table

FOLDER = "examples"


def names() -> list[str]:
    """Of all examples."""
    return [_name_of(one) for one in _all()]


Name = Annotated[
    str | None,
    typer.Argument(help="One of the list that is printed without it.", autocompletion=names),
]


def examples(
    name: Name = None,
    *,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Write it, or all, into this folder.", metavar="FOLDER"
        ),
    ] = None,
) -> None:
    """Print an example's manifest, or write examples into a folder; alone: what there is."""
    if folder is not None:
        _write(_all() if name is None else [_one(name)], folder)
    elif name is None:
        console().print(table(("name", "about"), ((one, _about(_one(one))) for one in names())))
        say("lockstep examples NAME prints one, lockstep examples -o FOLDER writes them all")
    else:
        _print(name, _one(name))


def _all() -> list[Traversable]:
    found = (one for one in _place().iterdir() if _is_example(one))
    return sorted(found, key=_name_of)


def _name_of(example: Traversable) -> str:
    return example.name.removesuffix(".yaml")


def _place() -> Traversable:
    return files("lockstep_cli") / FOLDER


def _is_example(one: Traversable) -> bool:
    return one.is_dir() or one.name.endswith(".yaml")


def _one(name: str) -> Traversable:
    for one in _all():
        if _name_of(one) == name.removesuffix(".yaml"):
            return one
    raise NotFound(f"there is no example {name}: there are {', '.join(names())}")


def _about(example: Traversable) -> str:
    """The first sentence of its manifest: what it shows."""
    manifest = example / "job.yaml" if example.is_dir() else example
    lines = takewhile(_is_prose, manifest.read_text(encoding="utf-8").splitlines())
    return " ".join(one.removeprefix("# ") for one in lines).partition(". ")[0].rstrip(".")


def _is_prose(line: str) -> bool:
    """A comment that is no command."""
    return line.startswith("# ") and not line.startswith("#  ")


def _print(name: str, example: Traversable) -> None:
    """A manifest as it is, for a pipe; of a folder, its job."""
    if example.is_dir():
        others = ", ".join(place for place, _ in _files(example) if place != "job.yaml")
        say(f"the job of {name}; with -o FOLDER also {others}")
        example /= "job.yaml"
    typer.echo(example.read_text(encoding="utf-8"), nl=False)


def _files(example: Traversable, *, below: str = "") -> Iterator[tuple[str, Traversable]]:
    """The files of a folder, with their places in it."""
    for one in sorted(example.iterdir(), key=lambda one: one.name):
        if one.name.startswith(("__pycache__", ".")):
            continue
        if one.is_dir():
            yield from _files(one, below=f"{below}{one.name}/")
        else:
            yield f"{below}{one.name}", one


def _write(chosen: list[Traversable], folder: Path) -> None:
    """All or nothing: what is there already stays as it is."""
    wanted = dict(pair for example in chosen for pair in _targets(example, folder))
    if there := [str(path) for path in wanted if path.exists()]:
        raise CliError(f"{there[0]} is there already: choose another folder, or take it away")
    for path, content in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.read_bytes())
        out(str(path))


def _targets(example: Traversable, folder: Path) -> Iterator[tuple[Path, Traversable]]:
    if example.is_dir():
        yield from ((folder / example.name / place, one) for place, one in _files(example))
    else:
        yield folder / example.name, example
