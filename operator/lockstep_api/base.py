"""Base classes of every model in the contract: snake_case in Python, camelCase outside."""

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel


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
