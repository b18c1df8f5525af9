"""Small JSON answers of a server, as devices and edges read them.

Invariant: whatever stands in an answer, nested as deep or as large as it may be, who asked has an
empty object of it, or `Malformed`, which is an error of the connection: it comes again.
"""

import json
from typing import Any, TypeVar

from pydantic import ValidationError

from lockstep_api.base import WireModel, problems_of

M = TypeVar("M", bound=WireModel)


class Malformed(ConnectionError):
    """A server's answer is not what it may answer."""


def read(model: type[M], body: str | bytes | None) -> M:
    """The message in an answer.

    Raises:
        Malformed: there is none.
    """
    try:
        return model.model_validate_json(body or b"")
    except ValidationError as error:
        raise Malformed(f"the answer is no {model.__name__}: {problems_of(error)}") from None


def said(body: str | bytes) -> dict[str, Any]:
    """The object in an answer; empty when there is none."""
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def text_of(body: str | bytes, name: str) -> str:
    """A text of that object; empty when there is none."""
    found = said(body).get(name)
    return found if isinstance(found, str) else ""
