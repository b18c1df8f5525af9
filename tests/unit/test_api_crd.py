"""From the models to the CRD: the converter, and that the committed files are its result."""

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import Field

from lockstep_api.base import ApiModel
from lockstep_api.quantity import Quantity
from lockstep_api.spec import FederatedJobSpec
from lockstep_operator.crd import crd, crd_yaml, main, part_schema, structural

ROOT = Path(__file__).resolve().parents[2]
CRD_FILE = ROOT / "crds" / "lockstep.dev_federatedjobs.yaml"
CHART_FILE = ROOT / "charts" / "lockstep" / "files" / "federatedjobs.yaml"

Json = dict[str, Any]
INTEGER: Json = {"type": "integer"}


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({"type": "integer", "title": "X"}, INTEGER),
        ({"anyOf": [INTEGER, {"type": "null"}], "default": None}, INTEGER),
        ({"anyOf": [INTEGER, {"type": "null"}], "default": 3}, {**INTEGER, "default": 3}),
        ({"anyOf": [{"$ref": "#/$defs/N"}, {"type": "null"}]}, INTEGER),
        ({"$ref": "#/$defs/N", "description": "a  b\n c"}, {**INTEGER, "description": "a b c"}),
        ({"const": "a", "type": "string"}, {"enum": ["a"], "type": "string"}),
        (
            {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1},
            {
                "type": "number",
                "minimum": 0,
                "exclusiveMinimum": True,
                "maximum": 1,
                "exclusiveMaximum": True,
            },
        ),
        (
            {"type": "string", "x-kubernetes-int-or-string": True},
            {"anyOf": [INTEGER, {"type": "string"}], "x-kubernetes-int-or-string": True},
        ),
        (
            {"type": "object", "additionalProperties": {"type": "string"}},
            {"type": "object", "additionalProperties": {"type": "string", "maxLength": 1024}},
        ),
        (
            {
                "type": "object",
                "additionalProperties": True,
                "x-kubernetes-preserve-unknown-fields": True,
            },
            {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
        ),
        (
            {"type": "object", "additionalProperties": False, "properties": {"n": {"title": "N"}}},
            {"type": "object", "properties": {"n": {}}},
        ),
        ({"type": "array", "items": {"$ref": "#/$defs/N"}}, {"type": "array", "items": INTEGER}),
        (
            {"type": "object", "default": {"a": None, "b": {}, "c": [], "d": {"e": 0}}},
            {"type": "object", "default": {"d": {"e": 0}}},
        ),
    ],
)
def test_the_structural_form(given: Json, wanted: Json) -> None:
    assert structural(given, {"N": INTEGER}) == wanted


def test_a_union_is_refused() -> None:
    with pytest.raises(ValueError, match="union"):
        structural({"anyOf": [INTEGER, {"type": "string"}]}, {})


class Colour(StrEnum):
    RED = "red"


class Inner(ApiModel):
    size: Quantity = "1Gi"
    note: str | None = None


class Outer(ApiModel):
    colour: Colour = Colour.RED
    inner_part: Inner = Field(default_factory=Inner)
    lists: list[int] = Field(default_factory=list)
    only: Literal["x"] = "x"
    near: Annotated[float, Field(gt=0)] | None = None


def test_a_model_made_by_a_factory_is_a_default() -> None:
    fields = part_schema(Outer)["properties"]
    assert fields["colour"]["default"] == "red"
    assert fields["innerPart"]["default"] == {"size": "1Gi"}
    assert fields["innerPart"]["properties"]["size"]["default"] == "1Gi"
    assert "default" not in fields["lists"]
    assert "default" not in fields["near"]


def spec_schema() -> Json:
    """The schema of spec."""
    version = crd()["spec"]["versions"][0]
    found: Json = version["schema"]["openAPIV3Schema"]["properties"]["spec"]
    return found


def fields_of(schema: Json, path: str) -> Iterator[tuple[str, Json]]:
    """All fields below a schema with their paths."""
    for name, field in schema.get("properties", {}).items():
        yield f"{path}.{name}", field
        yield from fields_of(field, f"{path}.{name}")
    if "items" in schema:
        yield from fields_of(schema["items"], f"{path}[]")


def with_defaults(schema: Json, value: Json) -> Json:
    """What the apiserver makes of a value."""
    made = dict(value)
    for name, field in schema.get("properties", {}).items():
        if name not in made and "default" in field:
            made[name] = field["default"]
        if isinstance(made.get(name), dict):
            made[name] = with_defaults(field, made[name])
        if isinstance(made.get(name), list) and "properties" in field.get("items", {}):
            made[name] = [with_defaults(field["items"], item) for item in made[name]]
    return made


def test_defaults_in_the_crd_are_those_of_the_models() -> None:
    minimal = {
        "model": {"name": "mlp"},
        "data": {"name": "fashion-mnist"},
        "training": {"rounds": 1},
        "devices": [{"name": "all"}],
    }
    filled = with_defaults(spec_schema(), minimal)
    assert FederatedJobSpec.model_validate(filled) == FederatedJobSpec.model_validate(minimal)
    assert filled["strategy"] == {"name": "fedavg", "aggregation": "mean"}
    assert filled["devices"][0]["frequency"] == {"minGHz": 0.5, "maxGHz": 2.0}
    assert filled["checkpoint"] == {"everyRounds": 1, "keep": 2}
    empty = {"image", "podTemplate", "clustering", "offload", "distillation", "edges"}
    assert empty.isdisjoint(filled)


def test_every_field_is_explained() -> None:
    version = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    for part in ("spec", "status"):
        silent = [
            path for path, field in fields_of(version[part], part) if not field.get("description")
        ]
        assert silent == []


def test_every_list_that_cel_reads_is_bounded() -> None:
    """Without bounds the apiserver refuses the CRD: its rules could cost too much."""
    for path, field in fields_of(spec_schema(), "spec"):
        if field.get("type") == "array":
            assert "maxItems" in field, path
        if field.get("type") == "string" and "enum" not in field:
            assert "maxLength" in field, path


@pytest.mark.parametrize("path", [CRD_FILE, CHART_FILE], ids=["crds", "chart"])
def test_the_committed_crd_is_what_the_models_say(path: Path) -> None:
    assert path.read_text() == crd_yaml(), "run `make crds`"


def test_the_command_writes_the_crd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "crd.yaml"
    monkeypatch.setattr("sys.argv", ["lockstep-crds", str(path)])
    main()
    assert yaml.safe_load(path.read_text())["metadata"]["name"] == "federatedjobs.lockstep.dev"
    monkeypatch.setattr("sys.argv", ["lockstep-crds"])
    with pytest.raises(SystemExit, match="usage"):
        main()
