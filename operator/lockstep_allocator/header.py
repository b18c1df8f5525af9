"""The free text in a safetensors file's header, read before any tensor is believed."""

import json
from typing import Any


def free_text(content: bytes) -> dict[str, Any]:
    """What a file says of itself; empty where it says nothing.

    Raises:
        ValueError: the bytes do not begin with a safetensors header.
    """
    size = int.from_bytes(content[:8], "little")
    if not 0 < size <= len(content) - 8:
        raise ValueError("the header is cut off")
    try:
        head = json.loads(content[8 : 8 + size])
    except RecursionError as error:
        raise ValueError("the header is nested too deep") from error
    told = (head.get("__metadata__") or {}) if isinstance(head, dict) else None
    if not isinstance(told, dict):
        raise ValueError("the header is no table")
    return told
