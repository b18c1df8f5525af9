"""Base classes of every model in the contract: snake_case in Python, camelCase outside."""

import re

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from lockstep_api.text import few


class ApiModel(BaseModel):
    """A frozen model whose fields are camelCase in YAML and JSON; an unknown field is an error."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        validate_by_name=True,
        validate_by_alias=True,
        serialize_by_alias=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
    )

    def to_json(self) -> str:
        """Compact JSON with camelCase keys, without the fields that are None."""
        return self.model_dump_json(by_alias=True, exclude_none=True)


class WireModel(ApiModel):
    """A message between pods: an unknown field is ignored, so that versions can differ by one."""

    model_config = ConfigDict(extra="ignore")


_MOST_PROBLEMS = 3
_NAMED = re.compile(r"[A-Za-z0-9_]{1,40}")


def problems_of(error: ValidationError) -> str:
    """What is wrong with a message, for its sender: a few problems, and nothing that it sent."""
    found = error.errors(include_url=False, include_context=False, include_input=False)
    told = [f"{_place(one['loc'])}{one['msg']}" for one in found]
    return few(told, _MOST_PROBLEMS, comma="; ")


def _place(location: tuple[int | str, ...]) -> str:
    """A key that only the sender knows is not repeated."""
    named = (str(step) if _NAMED.fullmatch(str(step)) else "…" for step in location[:10])
    return f"{'.'.join(named)}: " if location else ""
