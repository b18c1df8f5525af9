"""A safetensors file in memory: its tensors, and what it says of itself.

Policies and recorded rounds are such files. The library checks all of a file, header included,
before anything of it is believed; the free text it gives for files on disk only, so that is taken
from the header that it has accepted.
"""

import json
from typing import Any

from numpy.typing import NDArray
from safetensors.numpy import load


def read(content: bytes) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Tensors by name, and the free text; empty where there is none.

    Raises:
        SafetensorError: it is no such file.
        KeyError, TypeError, ValueError: a tensor has a type that NumPy does not know.
    """
    tensors = load(content)
    size = int.from_bytes(content[:8], "little")
    told = json.loads(content[8 : 8 + size]).get("__metadata__")
    return tensors, told or {}
