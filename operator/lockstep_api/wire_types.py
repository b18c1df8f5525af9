"""The types of what pods say to each other: every number, text and list has an end. See `wire`."""

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from lockstep_api.text import cut

MOST_LABELS = 1024
"""A device of more classes tells no histogram."""
MOST_NOTICES = 64
MOST_NUMBERS = 16
"""Numbers of a strategy."""
MOST_VECTORS = 8
"""Of an update."""
MOST_TEXT = 1024
"""Characters of a sentence."""
MOST_ACCOUNT = 4096
"""Characters of how a job ended."""
MOST_INT = 2**31 - 1
"""Examples or steps above it could make the sum of a round overflow: they are its weights."""
MOST_LOSS = 3.5e38
"""float32 ends before."""


def cut_at(length: int) -> Callable[[str], str]:
    """Cuts a text to so many characters."""
    return lambda text: cut(text, length)


def few_entries(most: int) -> Callable[[Any], Any]:
    """Refuses a longer mapping before its items are looked at: a wrong one would be told each."""

    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > most:
            raise ValueError(f"at most {most} entries")
        return value

    return check


ClientName = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)]
Sentence = Annotated[str, AfterValidator(cut_at(MOST_TEXT))]
"""For people: a longer one is cut, never refused."""
Number = Annotated[int, Field(ge=0, le=MOST_INT)]
Counted = Annotated[int, Field(ge=1, le=MOST_INT)]
Frequency = Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)]
Ghz = Annotated[Frequency, Field(alias="frequencyGHz")]
Cores = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
MOST_SECONDS = 1e7
Seconds = Annotated[float, Field(ge=0, le=MOST_SECONDS, allow_inf_nan=False)]
"""Of a round, at most 115 days."""
JobSeconds = Annotated[float, Field(ge=0, le=1e10, allow_inf_nan=False)]
"""Of a whole job."""
Budget = Annotated[float, Field(gt=0, le=1e12, allow_inf_nan=False)]
Rate = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
"""Of Mbit, or Mbit a second."""
Bytes = Annotated[int, Field(ge=0, le=2**40)]
Deadline = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
NumberName = Annotated[str, Field(pattern=r"^[a-z_]{1,40}$")]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Accuracy = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Loss = Annotated[float, Field(ge=-MOST_LOSS, le=MOST_LOSS, allow_inf_nan=False)]
ClusterName = Annotated[str, Field(pattern=r"^c[0-9]{1,5}$")]
"""A cluster of a round, as a label's value has it."""
EdgeName = ClientName
"""An edge's name is its group and ordinal, like a client's."""
SessionKey = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{16,128}$")]
Incarnation = Annotated[str, Field(pattern=r"^[A-Za-z0-9._:/-]{1,128}$")]
"""Tells two runs of one pod apart."""
Count = Annotated[float, Field(ge=0, le=1e18, allow_inf_nan=False)]
"""Of operations."""
Distance = Annotated[float, Field(ge=0, le=1e30, allow_inf_nan=False)]
"""Of an update from the model: a vector that is taken has a norm below 2e19."""
Divergence = Annotated[float, Field(ge=0, le=1e6, allow_inf_nan=False)]
"""In nats."""
