"""The CustomResourceDefinition, generated from the models (`make crds`).

Turns pydantic's JSON Schema into a structural schema: references inlined, `X | None` becomes
an optional field, exclusive bounds in OpenAPI v3.0 form. A real union is an error. A nested model
that has a default gets it from the apiserver with all its fields; other empty fields stay absent.
"""

import json
import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core.core_schema import WithDefaultSchema

from lockstep_api import names
from lockstep_api.base import ApiModel
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.status import FederatedJobStatus

Schema = dict[str, Any]

_HEADER = "# Generated from operator/lockstep_api by `make crds`: do not edit.\n"
_DROP = {"title", "additionalProperties", "$defs"}
_COLUMNS = (
    ("Phase", "string", ".status.phase"),
    ("Round", "string", ".status.progress"),
    ("Clients", "string", ".status.clients"),
    ("Accuracy", "number", ".status.accuracy"),
    ("Energy", "number", ".status.energyJoules.model"),
    ("Age", "date", ".metadata.creationTimestamp"),
)
_COLUMN_HELP = {
    "Accuracy": "Share of the held-out examples classified right",
    "Energy": "Modelled energy of all devices in J",
    "Round": "Finished rounds of all rounds",
    "Clients": "Connected clients of all",
}


# Services are named after the job, and a Service's name is a DNS label that begins with a letter.
_JOB_NAME_RULE = {
    "rule": "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
    "message": "metadata.name: use lower-case letters, digits and -, and begin with a letter:"
    " Services are named after it",
}


class _WithModelDefaults(GenerateJsonSchema):
    """Also tells the default of a field whose factory makes a model."""

    def get_default_value(self, schema: WithDefaultSchema) -> Any:
        factory = schema.get("default_factory")
        if factory is None or schema.get("default_factory_takes_data"):
            return super().get_default_value(schema)
        made = factory()  # type: ignore[call-arg]  # takes no data: asked above
        if isinstance(made, BaseModel):
            return made.model_dump(mode="json", by_alias=True, exclude_none=True)
        return super().get_default_value(schema)


def _pruned(default: Any) -> Any:
    """A default without what is empty: such a field is absent."""
    if not isinstance(default, dict):
        return default
    kept = {key: _pruned(value) for key, value in default.items()}
    return {key: value for key, value in kept.items() if value not in (None, {}, [])}


def _resolve(schema: Schema, defs: Schema) -> Schema:
    """Follows a `$ref`; what stands beside it (description, default) wins."""
    if "$ref" not in schema:
        return schema
    target = defs[schema["$ref"].rpartition("/")[2]]
    return {**target, **{k: v for k, v in schema.items() if k != "$ref"}}


def _without_none(schema: Schema, defs: Schema) -> Schema:
    """`anyOf: [X, null]` becomes X: in the CRD an empty field is an absent one."""
    options = [o for o in schema.get("anyOf", []) if o.get("type") != "null"]
    if not options:
        return schema
    if len(options) > 1:
        raise ValueError(f"a structural schema cannot hold the union {options}")
    rest = {k: v for k, v in schema.items() if k != "anyOf" and v is not None}
    return {**_resolve(options[0], defs), **rest}


def _bounds(schema: Schema) -> None:
    """JSON Schema's numeric exclusive bounds in OpenAPI v3.0 form."""
    for key, bound in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        if key in schema:
            schema[bound] = schema[key]
            schema[key] = True


def _int_or_string(schema: Schema) -> None:
    if schema.get("x-kubernetes-int-or-string"):
        schema.pop("type", None)
        schema["anyOf"] = [{"type": "integer"}, {"type": "string"}]


def _mapping(schema: Schema, defs: Schema, *, values: Any) -> None:
    """A dict: free-form, or with values of one type (strings, bounded for CEL's cost)."""
    if isinstance(values, dict) and "properties" not in schema:
        schema["additionalProperties"] = structural(values, defs)
        if schema["additionalProperties"].get("type") == "string":
            schema["additionalProperties"].setdefault("maxLength", 1024)


def structural(schema: Schema, defs: Schema) -> Schema:
    """The structural form of one JSON Schema node.

    Raises:
        ValueError: the node is a union of several types.
    """
    node = _without_none(_resolve(schema, defs), defs)
    values = node.get("additionalProperties")
    out = {k: v for k, v in node.items() if k not in _DROP}
    if "const" in out:
        out["enum"] = [out.pop("const")]
    if "description" in out:
        out["description"] = " ".join(str(out["description"]).split())
    if "default" in out:
        out["default"] = _pruned(out["default"])
    _bounds(out)
    _int_or_string(out)
    if out.get("x-kubernetes-preserve-unknown-fields"):
        return out
    _mapping(out, defs, values=values)
    if "properties" in out:
        out["properties"] = {k: structural(v, defs) for k, v in out["properties"].items()}
    if "items" in out:
        out["items"] = structural(out["items"], defs)
    return out


def part_schema(model: type[ApiModel]) -> Schema:
    """The structural schema of a model, with the defaults of its nested models."""
    raw = model.model_json_schema(by_alias=True, schema_generator=_WithModelDefaults)
    return structural(raw, raw.get("$defs", {}))


def crd() -> Schema:
    """The CustomResourceDefinition of FederatedJob."""
    root = {
        "type": "object",
        "description": "A federated training job over cloud, edge and device pods.",
        "required": ["spec"],
        "x-kubernetes-validations": [_JOB_NAME_RULE],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": part_schema(FederatedJobSpec),
            "status": part_schema(FederatedJobStatus),
        },
    }
    columns = [
        {"name": n, "type": t, "jsonPath": p, "description": _COLUMN_HELP.get(n, n)}
        for n, t, p in _COLUMNS
    ]
    version = {
        "name": names.VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}},
        "additionalPrinterColumns": columns,
        "schema": {"openAPIV3Schema": root},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names.PLURAL}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": names.KIND,
                "listKind": f"{names.KIND}List",
                "plural": names.PLURAL,
                "singular": names.KIND.lower(),
                "shortNames": ["fj"],
                "categories": ["all"],
            },
            "versions": [version],
        },
    }


def crd_yaml() -> str:
    """The CRD as the text of its file."""
    plain = json.loads(json.dumps(crd()))
    return _HEADER + yaml.safe_dump(plain, sort_keys=False, width=100, allow_unicode=True)


def main() -> None:
    """`lockstep-crds FILE`: writes the CRD."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: lockstep-crds FILE")
    Path(sys.argv[1]).write_text(crd_yaml(), encoding="utf-8")
