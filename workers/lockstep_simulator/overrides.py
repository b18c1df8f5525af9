"""`--set path=value` for a job's spec, as helm has it; `manifest` and `sweep` call it.

Differences from helm: 0.05 is a number (helm makes it a text), and an index must be there already
or be the next one.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

Json = Any

_STEP = re.compile(r"((?:[^.\[\]\\]|\\.)+)((?:\[\d+\])*)(?:\.|$)")
_INTEGER = re.compile(r"-?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_WORDS = {"true": True, "false": False, "null": None}


class BadSetting(ValueError):
    """A `--set` that cannot be read or does not fit the manifest; says what to change."""


def typed(text: str) -> Json:
    """The value of a text: true, false, null, a number, or the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    leading_zero = re.match(r"[-+]?0[0-9]", text)
    if _NUMBER.fullmatch(text) and not leading_zero and not text.startswith("+"):
        return float(text)
    return text


def split(text: str, separator: str) -> list[str]:
    r"""Cuts at a separator, but not where it is escaped (`\,`) or within braces."""
    parts, at, depth = [""], 0, 0
    while at < len(text):
        letter = text[at]
        if letter == "\\" and at + 1 < len(text):
            parts[-1] += text[at : at + 2]
            at += 2
            continue
        depth += (letter == "{") - (letter == "}")
        if letter == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
        at += 1
    return parts


def plain(text: str) -> str:
    """A text without the escapes in it."""
    return re.sub(r"\\(.)", r"\1", text)


def escaped(text: str) -> str:
    """A text that `--set` reads as it is."""
    return re.sub(r"([\\,{}])", r"\\\1", text)


def assignments(setting: str) -> Iterator[tuple[str, Json]]:
    """The paths and values of one `--set`: `a=1,b.c=x`.

    Raises:
        BadSetting: it is none.
    """
    for part in split(setting, ","):
        path, equals, text = part.partition("=")
        if not equals or not path:
            raise BadSetting(
                f"--set {setting!r}: write path=value, for example training.rounds=5 "
                r"(a comma within a value is \,)"
            )
        yield path, _value(text)


def _value(text: str) -> Json:
    if text.startswith("{") and text.endswith("}"):
        inside = text[1:-1]
        return [typed(plain(one)) for one in split(inside, ",")] if inside else []
    return typed(plain(text))


def steps(path: str) -> list[str | int]:
    """`devices[0].replicas` as ["devices", 0, "replicas"]; a leading `spec.` is left out.

    Raises:
        BadSetting: it is no path.
    """
    found: list[str | int] = []
    at = 0
    while at < len(path):
        step = _STEP.match(path, at)
        if step is None:
            raise BadSetting(f"--set {path}: write a path such as devices[0].replicas")
        found.append(plain(step[1]))
        found.extend(int(index) for index in re.findall(r"\d+", step[2]))
        at = step.end()
    if len(found) > 1 and found[0] == "spec":
        del found[0]
    if not found:
        raise BadSetting(f"--set {path!r}: write a path such as devices[0].replicas")
    return found


def apply(spec: dict[str, Json], setting: str) -> None:
    """Changes a spec as one `--set` says; null takes a field away.

    Raises:
        BadSetting: the setting cannot be read, or its path leads nowhere.
    """
    for path, value in assignments(setting):
        way = steps(path)
        at: Json = spec
        for step, following in pairwise(way):
            at = _entered(at, step, path=path, empty=[] if isinstance(following, int) else {})
        _put(at, way[-1], value=value, path=path)


def _entered(at: Json, step: str | int, *, path: str, empty: Json) -> Json:
    """What lies at a step; an absent field or next entry is made."""
    _check(at, step, path=path)
    if isinstance(step, int):
        if step == len(at):
            at.append(empty)
    elif at.get(step) is None:
        at[step] = empty
    return at[step]


def _put(at: Json, step: str | int, *, value: Json, path: str) -> None:
    _check(at, step, path=path)
    if value is None:
        _take(at, step)
    elif isinstance(step, int) and step == len(at):
        at.append(value)
    else:
        at[step] = value


def _take(at: Json, step: str | int) -> None:
    if isinstance(step, str):
        at.pop(step, None)
    elif step < len(at):
        del at[step]


def _check(at: Json, step: str | int, *, path: str) -> None:
    if isinstance(step, str):
        if not isinstance(at, dict):
            raise BadSetting(f"--set {path}: there is no field {step} in {_named(at)}")
    elif not isinstance(at, list):
        raise BadSetting(f"--set {path}: [{step}] needs a list, but there is {_named(at)}")
    elif step > len(at):
        have = f"has {len(at)} entries" if at else "is empty"
        raise BadSetting(f"--set {path}: the list {have}: use at most [{len(at)}]")


def _named(value: Json) -> str:
    kinds: Sequence[tuple[type, str]] = ((dict, "an object"), (list, "a list"))
    return next((name for kind, name in kinds if isinstance(value, kind)), repr(value))
