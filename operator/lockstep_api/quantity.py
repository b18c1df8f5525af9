"""Kubernetes quantities (`500m`, `256Mi`) as pydantic types, and their values in SI units."""

import re
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

_PATTERN = r"^([0-9]+(\.[0-9]*)?|\.[0-9]+)(m|[kMGTPE]|[KMGTPE]i)?$"
_MORE_THAN_0 = r"^(0*[1-9][0-9]*(\.[0-9]*)?|0*\.0*[1-9][0-9]*)(m|[kMGTPE]|[KMGTPE]i)?$"
CEL_RULE = f"type(self) == int ? int(self) > 0 : string(self).matches(r'{_MORE_THAN_0}')"
_MESSAGE = "must be a quantity of more than 0, such as 500m, 2 or 256Mi"
_SCALE = {
    "m": 1e-3,
    "": 1.0,
    "k": 1e3,
    **{unit: 10.0 ** (6 + 3 * i) for i, unit in enumerate("MGTPE")},
    **{f"{unit}i": 1024.0 ** (i + 1) for i, unit in enumerate("KMGTPE")},
}


def parse_quantity(text: str) -> float:
    """The value of a quantity in its base unit (cores or bytes).

    Raises:
        ValueError: the text is not a non-negative Kubernetes quantity.
    """
    match = re.fullmatch(_PATTERN, text)
    if match is None:
        raise ValueError(f"{text!r} is not a quantity: write for example 500m, 2 or 256Mi")
    return float(match[1]) * _SCALE[match[3] or ""]


def format_cpu(cores: float) -> str:
    """Cores as a quantity in whole millicores, at least `1m`."""
    return f"{max(1, round(cores * 1000))}m"


def _positive(text: str) -> str:
    if parse_quantity(text) <= 0:
        raise ValueError(f"{text!r} must be more than 0")
    return text


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


Quantity = Annotated[
    str,
    BeforeValidator(_as_text),
    AfterValidator(_positive),
    Field(
        max_length=32,
        json_schema_extra={
            "x-kubernetes-int-or-string": True,
            "x-kubernetes-validations": [{"rule": CEL_RULE, "message": _MESSAGE}],
        },
    ),
]
