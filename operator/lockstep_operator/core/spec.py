"""A job's spec as a model; the operator reads it so of the cluster, the simulator of a file."""

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from lockstep_api.spec import FederatedJobSpec
from lockstep_operator.errors import InvalidSpec


def parse_spec(spec: Mapping[str, Any]) -> FederatedJobSpec:
    """The spec as a model.

    Raises:
        InvalidSpec: with the path and what is wrong, as a user would write it.
    """
    try:
        return FederatedJobSpec.model_validate(spec)
    except ValidationError as error:
        lines = (f"{_path(item['loc'])}: {item['msg']}" for item in error.errors())
        raise InvalidSpec("; ".join(lines)) from error


def _path(location: tuple[int | str, ...]) -> str:
    return ".".join(("spec", *map(str, location)))
