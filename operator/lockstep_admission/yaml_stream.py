"""YAML as kubectl reads it; `validate` and the simulator call it.

PyYAML differs from the Go library in what a plain scalar is: here 1e-28 is a number, 1:30 and
2026-01-01 are texts, a key that stands twice is an error, and keys are texts.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from lockstep_admission.errors import Refused


class _Loader(yaml.SafeLoader):
    """Scalars and mappings as kubectl has them."""

    yaml_implicit_resolvers = {  # noqa: RUF012  # PyYAML's own name; add_implicit_resolver copies it
        first: [
            (tag, pattern)
            for tag, pattern in resolvers
            if tag.rpartition(":")[2] not in {"int", "float", "timestamp"}
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """Refuses a key that stands twice, which PyYAML lets win."""
        seen: set[str] = set()
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:merge":
                continue
            if key.value in seen:
                problem = f"key {key.value!r} is already set in this mapping"
                raise yaml.constructor.ConstructorError(None, None, problem, key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int",
    re.compile(r"^[-+]?(0b[01_]+|0o?[0-7_]+|0x[0-9a-fA-F_]+|0|[1-9][0-9_]*)$"),
    list("-+0123456789"),
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$"),
    list("-+0123456789."),
)


def documents(text: str) -> Iterator[dict[str, Any]]:
    """The objects of a stream, those of Lists too; empty documents are passed over.

    Raises:
        Refused: it is no such stream.
    """
    try:
        found = list(yaml.load_all(text, Loader=_Loader))  # a SafeLoader
    except yaml.YAMLError as error:
        raise Refused([f"the manifest is no YAML: {' '.join(str(error).split())}"]) from error
    except ValueError as error:
        raise Refused([f"the manifest is no YAML: {error}"]) from error
    for one in found:
        if one is None:
            continue
        if not isinstance(one, dict):
            kind = type(one).__name__
            raise Refused([f"a document of the manifest is a {kind}, not an object with a kind"])
        yield from map(_json, one.get("items", ()) if one.get("kind") == "List" else (one,))


def _json(value: Any) -> Any:
    """The value with keys that are texts."""
    if isinstance(value, dict):
        return {_key(name): _json(one) for name, one in value.items()}
    return [_json(one) for one in value] if isinstance(value, list) else value


def _key(name: Any) -> str:
    return str(name).lower() if isinstance(name, bool) else str(name)
