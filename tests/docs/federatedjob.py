"""Writes the reference of FederatedJob (docs/reference/federatedjob.md) from the CRD's schema.

Called by `python -m tests.docs`. Invariant: what the apiserver asks of a field is on the page:
type, default, bounds, patterns, rules across fields.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from lockstep_api import names
from lockstep_operator.crd import crd

Schema = Mapping[str, Any]

HEAD = f"""# FederatedJob

Generated from the models in `operator/lockstep_api` by `make docs-reference`: do not edit.
API version `{names.GROUP}/{names.VERSION}`, kind `{names.KIND}`, short name `fj`.
`kubectl explain fj.spec` shows the same descriptions, and `lockstep validate` asks the same of a
manifest without a cluster.

A field in **bold** must be there. What is empty has the default; *none* means that it stays absent.
"""
_COLUMNS_HEAD = """
## Columns of `kubectl get fj`

| column | from | what it is |
| --- | --- | --- |
"""
_TABLE = "\n| field | type | default | bounds | what it is |\n| --- | --- | --- | --- | --- |"
_BOUNDS = (
    ("minimum", "at least"),
    ("maximum", "at most"),
    ("minLength", "characters, at least"),
    ("maxLength", "characters, at most"),
    ("minItems", "entries, at least"),
    ("maxItems", "entries, at most"),
    ("maxProperties", "keys, at most"),
)
_STRICT = {
    "minimum": ("exclusiveMinimum", "more than"),
    "maximum": ("exclusiveMaximum", "less than"),
}


def reference() -> str:
    """The page."""
    version = crd()["spec"]["versions"][0]
    root = version["schema"]["openAPIV3Schema"]
    fields = root["properties"]
    lines = [
        HEAD,
        *_rules(root),
        *_section("spec", fields["spec"]),
        *_section("status", fields["status"]),
        _COLUMNS_HEAD.rstrip("\n"),
        *(
            f"| {column['name']} | `{column['jsonPath']}` | {column['description']} |"
            for column in version["additionalPrinterColumns"]
        ),
    ]
    return "\n".join(lines) + "\n"


def _section(path: str, schema: Schema) -> Iterator[str]:
    """An object: its fields, what patterns they match, its rules; then the objects in it."""
    yield f"\n## `{path}`\n"
    if "description" in schema:
        yield str(schema["description"])
    fields: Mapping[str, Schema] = schema["properties"]
    required = schema.get("required", ())
    yield _TABLE
    for name, field in fields.items():
        yield _row(name, field, required=name in required)
    yield from _patterns(fields)
    yield from _rules(schema)
    for name, field in fields.items():
        suffix, inner = _inner(field)
        if "properties" in inner:
            yield from _section(f"{path}.{name}{suffix}", inner)


def _inner(field: Schema) -> tuple[str, Schema]:
    """What a list or a mapping holds, and how the path goes on; else the field itself."""
    if isinstance(items := field.get("items"), dict):
        return "[]", items
    if isinstance(values := field.get("additionalProperties"), dict):
        return ".*", values
    return "", field


def _row(name: str, field: Schema, *, required: bool) -> str:
    shown = f"**`{name}`**" if required else f"`{name}`"
    words = str(field.get("description", "")).replace("|", "\\|")
    return f"| {shown} | {_type(field)} | {_default(field)} | {_bounds(field)} | {words} |"


def _type(field: Schema) -> str:
    if field.get("x-kubernetes-int-or-string"):
        return "quantity"
    if field.get("x-kubernetes-preserve-unknown-fields"):
        return "free-form object"
    suffix, inner = _inner(field)
    if suffix:
        kind = "list of" if suffix == "[]" else "mapping to"
        return f"{kind} {_type(inner)}"
    return str(field.get("format", field.get("type", "object")))


def _default(field: Schema) -> str:
    if "default" not in field:
        return "*none*"
    if isinstance(field["default"], dict):
        return "as below"
    return f"`{json.dumps(field['default'], ensure_ascii=False)}`"


def _bounds(field: Schema) -> str:
    """What a value may be; of a list or mapping also what its entries may be."""
    said = list(_own_bounds(field))
    suffix, inner = _inner(field)
    if suffix and "properties" not in inner:
        said += [f"each: {bound}" for bound in _own_bounds(inner)]
    if keys := field.get("x-kubernetes-list-map-keys"):
        said.append(f"each with another {', '.join(f'`{key}`' for key in keys)}")
    return "; ".join(said)


def _own_bounds(field: Schema) -> Iterator[str]:
    if "enum" in field:
        yield ", ".join(f"`{one}`" if one else "empty" for one in field["enum"])
    for key, words in _BOUNDS:
        strict, otherwise = _STRICT.get(key, ("", ""))
        if key in field:
            yield f"{otherwise if field.get(strict) else words} {field[key]:,}"


def _patterns(fields: Mapping[str, Schema]) -> Iterator[str]:
    found = {
        name: pattern
        for name, field in fields.items()
        if (pattern := field.get("pattern") or _inner(field)[1].get("pattern"))
    }
    if found:
        yield "\nPatterns:\n"
        yield from (f"- `{name}` matches `{pattern}`" for name, pattern in found.items())


def _rules(schema: Schema) -> Iterator[str]:
    """The rules of an object, and of those of its fields that are no objects themselves."""
    own = list(schema.get("x-kubernetes-validations", ()))
    for field in schema.get("properties", {}).values():
        if "properties" not in field:
            own += field.get("x-kubernetes-validations", ())
            inner = _inner(field)[1]
            if inner is not field and "properties" not in inner:
                own += inner.get("x-kubernetes-validations", ())
    if own:
        yield "\nRules, in CEL:\n"
        yield from (f"- {rule['message']}: `{rule['rule']}`" for rule in own)
