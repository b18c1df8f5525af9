"""The CEL rules of the CRD, as an apiserver asks them of a manifest that is created.

`checking` calls it when `structural` lets rules be looked at. Rules about changes (`oldSelf`) are
not asked: there is no older object. What Kubernetes adds to CEL, and rules use, is here.
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cel

from lockstep_admission.structural import Json, Problem, Schema, child, matches, shown
from lockstep_api.quantity import parse_quantity

_RULES = "x-kubernetes-validations"
_NO_QUANTITY = (
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
)


def broken_rules(value: Json, schema: Schema, *, path: str = "") -> Iterator[Problem]:
    """What the rules of a schema say of a value that has its defaults."""
    if value is None:
        return
    seen = _typed(value, schema)
    for rule in schema.get(_RULES, ()):
        if "oldSelf" not in rule["rule"] and (wrong := _asked(rule, seen)) is not None:
            yield Problem(f"{path or '<nil>'}: Invalid value: {wrong}")
    yield from _below(value, schema, path=path)


def _below(value: Json, schema: Schema, *, path: str) -> Iterator[Problem]:
    """The rules of the fields of an object, or the entries of a list."""
    if isinstance(value, dict):
        for name, field in schema.get("properties", {}).items():
            yield from broken_rules(value.get(name), field, path=child(path, name))
    elif isinstance(value, list):
        for index, one in enumerate(value):
            yield from broken_rules(one, schema.get("items", {}), path=f"{path}[{index}]")


def _typed(value: Json, schema: Schema) -> Json:
    """The value with the types that CEL sees: what the schema calls a number is a double."""
    if isinstance(value, dict):
        fields, others = schema.get("properties", {}), schema.get("additionalProperties")
        rest = others if isinstance(others, dict) else {}
        return {name: _typed(one, fields.get(name, rest)) for name, one in value.items()}
    if isinstance(value, list):
        return [_typed(one, schema.get("items", {})) for one in value]
    is_double = schema.get("type") == "number" and not isinstance(value, bool)
    return float(value) if is_double and isinstance(value, int) else value


def _asked(rule: Mapping[str, str], value: Json) -> str | None:
    """What is said of a value that a rule refuses; None: it does not."""
    unread: list[str] = []
    context = _context(unread)
    context.add_variable("self", value)
    try:
        kept = _program(rule["rule"]).execute(context)
    except (RuntimeError, TypeError, ValueError) as error:
        why = _NO_QUANTITY if unread else str(error)
        return f"{_value(value, quoted=True)}{why} evaluating rule: {rule['message']}"
    if unread:
        return f"{_value(value, quoted=True)}{_NO_QUANTITY} evaluating rule: {rule['message']}"
    return None if kept else f"{_value(value)}{rule['message']}"


def _value(value: Json, *, quoted: bool = False) -> str:
    """A value before a message, which leaves objects and lists out."""
    if isinstance(value, dict | list):
        return ('"object": ' if isinstance(value, dict) else '"array": ') if quoted else ""
    return f"{shown(value)}: "


@functools.cache
def _program(rule: str) -> cel.Program:
    """The rule, whose `matches` is ours: the library's knows letters that RE2's \\w does not."""
    return cel.compile(rule.replace(".matches(", ".matchesLikeRE2("))


def _context(unread: list[str]) -> cel.Context:
    """The functions that rules call; texts that are no quantities are added to `unread`."""

    def compare(left: str, right: str) -> int:
        unread.extend(text for text in (left, right) if not _is_quantity(text))
        if unread:
            return 0
        one, other = parse_quantity(left), parse_quantity(right)
        return (one > other) - (one < other)

    context = cel.Context()
    context.add_function("isQuantity", _is_quantity)
    context.add_function("quantity", _as_it_is)
    context.add_function("compareTo", compare)
    context.add_function("sum", _total)
    context.add_function("matchesLikeRE2", matches)
    return context


def _is_quantity(text: str) -> bool:
    try:
        parse_quantity(text)
    except ValueError:
        return False
    return True


def _as_it_is(text: str) -> str:
    """A quantity is its text: `compareTo` reads it."""
    return text


def _total(values: Sequence[Any]) -> Any:
    return sum(values)
