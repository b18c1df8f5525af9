"""Kubernetes quantities (`500m`, `256Mi`) as pydantic types, and their values in SI units."""

import re
from functools import lru_cache
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

_SUFFIX = r"(e[+-]?[0-9]{1,2}|E[+-]?[0-9]{1,2}|[numkMGTPE]|[KMGTPE]i)?"
_PATTERN = rf"^\+?([0-9]+(\.[0-9]*)?|\.[0-9]+){_SUFFIX}$"
_MORE_THAN_0 = rf"^\+?(0*[1-9][0-9]*(\.[0-9]*)?|0*\.0*[1-9][0-9]*){_SUFFIX}$"
CEL_RULE = f"type(self) == int ? int(self) > 0 : string(self).matches(r'{_MORE_THAN_0}')"
_MESSAGE = "must be a quantity of more than 0, such as 500m, 2 or 256Mi"
_SCALE = {
    "n": 1e-9,
    "u": 1e-6,
    "m": 1e-3,
    "": 1.0,
    "k": 1e3,
    **{unit: 10.0 ** (6 + 3 * i) for i, unit in enumerate("MGTPE")},
    **{f"{unit}i": 1024.0 ** (i + 1) for i, unit in enumerate("KMGTPE")},
}


@lru_cache(maxsize=1024)
def parse_quantity(text: str) -> float:
    """The value of a quantity in its base unit (cores or bytes).

    Raises:
        ValueError: the text is not a non-negative Kubernetes quantity.
    """
    match = re.fullmatch(_PATTERN, text)
    if match is None:
        raise ValueError(f"{text!r} is not a quantity: write for example 500m, 2 or 256Mi")
    suffix = match[3] or ""
    if suffix[:1] in {"e", "E"} and suffix[1:].lstrip("+-").isdigit():
        return float(match[1] + suffix)
    return float(match[1]) * _SCALE[suffix]


def format_cpu(cores: float) -> str:
    """Cores as a quantity in whole millicores, at least `1m`."""
    return f"{max(1, round(cores * 1000))}m"


def _positive(text: str) -> str:
    if parse_quantity(text) <= 0:
        raise ValueError(f"{text!r} must be more than 0")
    return text


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


_Text = Annotated[str, BeforeValidator(_as_text), AfterValidator(_positive)]


def _extra(*rules: tuple[str, str]) -> Any:
    """An integer or a text in the CRD, with these CEL rules and their messages."""
    validations = [{"rule": rule, "message": message} for rule, message in rules]
    schema: Any = {"x-kubernetes-int-or-string": True, "x-kubernetes-validations": validations}
    return Field(max_length=32, json_schema_extra=schema)


def _within(least: str, most: str, *, message: str) -> tuple[AfterValidator, Any]:
    """What refuses quantities that are nobody's intention: here, and in the apiserver."""

    def check(text: str) -> str:
        if not parse_quantity(least) <= parse_quantity(text) <= parse_quantity(most):
            raise ValueError(f"{text!r}: {message}")
        return text

    def compared(how: str, bound: str) -> str:
        return f"quantity(string(self)).compareTo(quantity('{bound}')) {how} 0"

    within = f"{compared('>=', least)} && {compared('<=', most)}"
    rule = f"!isQuantity(string(self)) || ({within})"
    return AfterValidator(check), _extra((CEL_RULE, _MESSAGE), (rule, message))


Quantity = Annotated[_Text, _extra((CEL_RULE, _MESSAGE))]
CORES_MESSAGE = "CPU is from 1m (a thousandth of a core) to 10k cores: write for example 500m or 2"
Cores = Annotated[_Text, *_within("1m", "10k", message=CORES_MESSAGE)]
BYTES_MESSAGE = (
    "memory and storage are from 1Mi to 1Pi: a number alone is bytes, m is a thousandth of one; "
    "write for example 512Mi or 2Gi"
)
Bytes = Annotated[_Text, *_within("1Mi", "1Pi", message=BYTES_MESSAGE)]
