"""What an apiserver does with a manifest by the CRD's schema: unknown fields, defaults, values.

`checking` calls it before `rules`. The words are those of Kubernetes 1.36 as kubectl shows them, so
that a manifest is refused here as it would be there; the tests compare both.
"""

import copy
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

Json = Any
Schema = Mapping[str, Any]

_FREE_FORM = "x-kubernetes-preserve-unknown-fields"
_INT_OR_STRING = "x-kubernetes-int-or-string"
_MAP_KEYS = "x-kubernetes-list-map-keys"
_TYPES: tuple[tuple[type, str], ...] = (
    (bool, "boolean"),
    (int, "integer"),
    (float, "number"),
    (str, "string"),
    (Mapping, "object"),
    (list, "array"),
)


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a value."""

    text: str
    blocks: bool = False
    """No rule is looked at because of it."""


def child(path: str, name: str) -> str:
    """The path of a field, as Kubernetes writes it."""
    return f"{path}.{name}" if path else name


def shown(value: Json) -> str:
    """A value as Go prints it in a message."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return _go_float(value)
    if isinstance(value, int):
        return str(value)
    return json.dumps(value, separators=(",", ":"), sort_keys=True, ensure_ascii=False)


def _go_float(value: float) -> str:
    """`%v` of a float64: with an exponent below 1e-4 and from 1e6 on."""
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    power = len(digits) - 1 + int(exponent)
    if -4 <= power < 6:
        return format(Decimal(repr(value)).normalize(), "f")
    head, tail = str(digits[0]), "".join(map(str, digits[1:]))
    return f"{'-' if sign else ''}{head}{'.' if tail else ''}{tail}e{power:+03d}"


def _kind(value: Json) -> str:
    return next((name for kind, name in _TYPES if isinstance(value, kind)), "null")


def whole(value: Json) -> Json:
    """The value as JSON has it: floats without a fraction are integers."""
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**63:
        return int(value)
    if isinstance(value, dict):
        return {key: whole(one) for key, one in value.items()}
    return [whole(one) for one in value] if isinstance(value, list) else value


def unknown_fields(value: Json, schema: Schema, *, path: str = "") -> Iterator[str]:
    """The paths of fields that a schema does not have; kubectl has the apiserver refuse them."""
    if schema.get(_FREE_FORM):
        return
    if isinstance(value, dict) and "properties" in schema:
        for name, one in value.items():
            below = schema["properties"].get(name)
            if below is None:
                yield child(path, name)
            else:
                yield from unknown_fields(one, below, path=child(path, name))
    elif isinstance(value, list) and "items" in schema:
        for index, one in enumerate(value):
            yield from unknown_fields(one, schema["items"], path=f"{path}[{index}]")


def with_defaults(value: Json, schema: Schema) -> Json:
    """The value with the schema's defaults, and without fields that are null."""
    if schema.get(_FREE_FORM):
        return value
    if isinstance(value, dict):
        return _object_with_defaults(value, schema)
    if isinstance(value, list) and "items" in schema:
        return [with_defaults(one, schema["items"]) for one in value]
    return value


def _object_with_defaults(value: dict[str, Json], schema: Schema) -> dict[str, Json]:
    fields = schema.get("properties", {})
    made = {name: one for name, one in value.items() if one is not None}
    for name, field in fields.items():
        if "default" in field:
            made.setdefault(name, copy.deepcopy(field["default"]))
        if name in made:
            made[name] = with_defaults(made[name], field)
    return made


def problems(value: Json, schema: Schema, *, path: str = "") -> Iterator[Problem]:
    """What is wrong with a value that has its defaults, field by field."""
    if wrong := _of_type(value, schema, path=path):
        yield wrong
    yield from _of_enum(value, schema, path=path)
    match value:
        case bool():
            pass
        case int() | float():
            yield from _of_number(value, schema, path=path)
        case str():
            yield from _of_text(value, schema, path=path)
        case list():
            yield from _of_list(value, schema, path=path)
        case dict():
            yield from _of_object(value, schema, path=path)


def _of_type(value: Json, schema: Schema, *, path: str) -> Problem | None:
    wanted = ("integer", "string") if schema.get(_INT_OR_STRING) else (schema.get("type"),)
    found = _kind(value)
    if wanted == (None,) or found in wanted or (found, wanted) == ("integer", ("number",)):
        return None
    told = f'{path} in body must be of type {",".join(map(str, wanted))}: "{found}"'
    return Problem(f'{path}: Invalid value: "{found}": {told}', blocks=True)


def _of_enum(value: Json, schema: Schema, *, path: str) -> Iterator[Problem]:
    allowed = schema.get("enum")
    if allowed is not None and value not in allowed:
        known = ", ".join(map(shown, allowed))
        text = f"{path}: Unsupported value: {shown(value)}: supported values: {known}"
        yield Problem(text, blocks=True)


def _invalid(path: str, value: Json, *, should: str) -> Problem:
    return Problem(f"{path}: Invalid value: {shown(value)}: {path} in body should {should}")


def _of_number(value: float, schema: Schema, *, path: str) -> Iterator[Problem]:
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and value <= least:
        if schema.get("exclusiveMinimum"):
            yield _beyond(path, value, should="greater than", bound=least)
        elif value < least:
            yield _beyond(path, value, should="greater than or equal to", bound=least)
    if most is not None and value >= most:
        if schema.get("exclusiveMaximum"):
            yield _beyond(path, value, should="less than", bound=most)
        elif value > most:
            yield _beyond(path, value, should="less than or equal to", bound=most)


def _beyond(path: str, value: float, *, should: str, bound: float) -> Problem:
    """A bound is shown as a number of the value's kind, if it can be."""
    told = whole(float(bound)) if isinstance(value, int) else float(bound)
    return _invalid(path, value, should=f"be {should} {shown(told)}")


def matches(text: str, pattern: str) -> bool:
    """Whether RE2 finds the pattern: `$` is the end of the text, `\\w` is ASCII."""
    return re.search(pattern.replace("$", r"\Z"), text, re.ASCII) is not None


def _of_text(value: str, schema: Schema, *, path: str) -> Iterator[Problem]:
    most, pattern = schema.get("maxLength"), schema.get("pattern")
    if most is not None and len(value) > most:
        yield Problem(f"{path}: Too long: may not be more than {most} bytes", blocks=True)
    elif pattern is not None and not matches(value, pattern):
        yield _invalid(path, value, should=f"match '{pattern}'")


def _of_list(value: list[Json], schema: Schema, *, path: str) -> Iterator[Problem]:
    least, most = schema.get("minItems"), schema.get("maxItems")
    if most is not None and len(value) > most:
        yield _too_many(path, len(value), most=most)
    if least is not None and len(value) < least:
        yield _invalid(path, len(value), should=f"have at least {least} items")
    for index, one in enumerate(value):
        yield from problems(one, schema.get("items", {}), path=f"{path}[{index}]")
    yield from _repeated(value, schema.get(_MAP_KEYS, ()), path=path)


def _too_many(path: str, found: int, *, most: int) -> Problem:
    return Problem(f"{path}: Too many: {found}: must have at most {most} items", blocks=True)


def _repeated(value: list[Json], keys: list[str], *, path: str) -> Iterator[Problem]:
    """The second entry of a list of type map with the same keys; those after it are not told."""
    seen: Counter[str] = Counter()
    for index, one in enumerate(value):
        if not keys or not isinstance(one, dict):
            continue
        key = shown({name: one[name] for name in keys if name in one})
        seen[key] += 1
        if seen[key] == 2:
            yield Problem(f"{path}[{index}]: Duplicate value: {key}")


def _of_object(value: dict[str, Json], schema: Schema, *, path: str) -> Iterator[Problem]:
    if (most := schema.get("maxProperties")) is not None and len(value) > most:
        yield _too_many(path, len(value), most=most)
    for name in schema.get("required", ()):
        if name not in value:
            yield Problem(f"{child(path, name)}: Required value", blocks=True)
    fields, others = schema.get("properties", {}), schema.get("additionalProperties")
    for name, one in value.items():
        below = fields.get(name, others if isinstance(others, dict) else None)
        if below is not None:
            yield from problems(one, below, path=child(path, name))
