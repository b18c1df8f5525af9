"""What docs name exists: make targets, commands and their options, extras, series, fields.

Called by the tests of the docs. Each function gives what is wrong, in words; nothing: it is right.
"""

import re
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

from lockstep_api import series
from lockstep_operator.crd import crd
from tests.docs.cli import commands_of, options_of, programs
from tests.docs.markdown import ROOT

_EXTRAS = re.compile(r"\[([a-z,]+)\]")
_SERIES = re.compile(r"\blockstep_[a-z0-9_]+\b")
_PATH = re.compile(r"(spec|status)(\.[A-Za-z]+(\[\w*\])?)+")


def wrong_with(words: Sequence[str]) -> str | None:
    """What is wrong with a command's program, target, options or extras."""
    program = words[0].rpartition("/")[2]
    if program in programs():
        return _wrong_call(program, words[1:])
    if program == "make":
        return wrong_make(words[1:])
    if program == "pip":
        return _wrong_extras(" ".join(words))
    return None


def wrong_make(words: Sequence[str]) -> str | None:
    """A make target or variable that there is not."""
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        variable, equals, _ = word.partition("=")
        if equals and f"$({variable})" not in text and f"$(or $({variable})" not in text:
            return f"the Makefile uses no {variable}"
        if not equals and not re.search(rf"^{re.escape(word)}:", text, re.MULTILINE):
            return f"there is no make {word}"
    return None


def _wrong_call(program: str, words: Sequence[str]) -> str | None:
    """A call that the program's own parser refuses."""
    found = commands_of(program)
    name = next((word for word in words if word in found and word), "")
    if not name and len(found) > 1 and not {"--help", "--version"} & set(words):
        return f"{program} has no command {' '.join(words[:1])}"
    own = [word for word in words if word != name] if name else list(words)
    try:
        found[name].make_context(f"{program} {name}", own, ignore_unknown_options=False)
    except SystemExit:
        return None
    except Exception as error:  # noqa: BLE001 - typer's own errors have no common public class
        return None if type(error).__name__ == "Exit" else str(error) or type(error).__name__
    return None


def wrong_command(program: str, name: str) -> str | None:
    """A command that a program does not have."""
    known = programs().get(program)
    if known is None or name in commands_of(program):
        return None
    return f"{program} has no command {name}"


def wrong_option(option: str) -> str | None:
    """An option that none of our programs has."""
    every = {
        one
        for program in programs()
        for command in commands_of(program).values()
        for one in options_of(command)
    }
    return None if option in every else f"no program has {option}"


def _wrong_extras(text: str) -> str | None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {extra for found in _EXTRAS.findall(text) for extra in found.split(",")}
    odd = named - set(project["optional-dependencies"])
    return f"there is no extra {', '.join(sorted(odd))}" if odd else None


@cache
def all_series() -> frozenset[str]:
    """Names of all series, as Prometheus and as the exporters have them."""
    return frozenset(name for one in series.ALL for name in (one.name, *one.names))


def unknown_series(text: str) -> list[str]:
    """Names of series that no pod exports."""
    packages = {path.name for path in (*ROOT.glob("operator/*"), *ROOT.glob("workers/*"))}
    return [name for name in _SERIES.findall(text) if name not in all_series() | packages]


def unknown_field(path: str) -> bool:
    """Whether a text is a path of a FederatedJob's field that there is not."""
    if not _PATH.fullmatch(path):
        return False
    return not any(True for _ in _below(_schema(), re.sub(r"\[\w*\]", "", path).split(".")))


@cache
def _schema() -> Any:
    return crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]


def _below(schema: Any, names: Sequence[str]) -> Iterator[Any]:
    """The part of a schema that a path leads to, if any."""
    while isinstance(schema, dict) and "items" in schema:
        schema = schema["items"]
    if not names:
        yield schema
    elif names[0] in schema.get("properties", {}):
        yield from _below(schema["properties"][names[0]], names[1:])
    elif isinstance(values := schema.get("additionalProperties"), dict):
        yield from _below(values, names[1:])
    elif schema.get("x-kubernetes-preserve-unknown-fields"):
        yield schema
