"""What a fuzz target is, and how far its inputs get.

A target reads bytes: it takes them, or refuses them by an error that is documented. Whatever else
comes out of it is a bug. Each input has a stage: what was made of it, or where it was refused. Who
counts them sees whether a fuzzer gets past the first look at its inputs.
"""

import tracemalloc
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from pydantic import ValidationError

from lockstep_workers.errors import RefusedUpdate

TAKEN = "taken"
OF_A_BYTE = 80
"""Bytes of memory that an input may take for each of its own: rounds of devices with the longest
energy curves, which are read and played again, have 66; empty lists in JSON 24."""
ANYHOW = 512 << 10
"""Bytes that an input may take however short it is: buffers, pieces of files."""
Read = Callable[[bytes], str | None]
"""Returns what was made of an input; None: it was taken."""


@dataclass(frozen=True, slots=True)
class Target:
    """What strangers' bytes reach."""

    read: Read
    seeds: tuple[bytes, ...]
    """Inputs that it takes."""
    refuses: tuple[type[Exception], ...] = ()
    """The errors that are documented."""
    of_a_byte: int = OF_A_BYTE
    """Another bound on memory, where files are packed or may have anything in a field."""
    anyhow: int = ANYHOW
    """Another bound, where few bytes may stand for much up to a limit."""

    def stage_of(self, data: bytes) -> str:
        """Reads an input; how far it came."""
        try:
            return self.read(data) or TAKEN
        except self.refuses as error:
            return f"refused: {_place(error)}"

    def measured(self, data: bytes) -> str:
        """The same of an input that must not take more memory than one of its size may.

        What Python and NumPy reserve counts. Whoever calls it has read a seed before, so that what
        is made once is there.
        """
        tracemalloc.start()
        try:
            stage = self.stage_of(data)
            taken = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        most = self.of_a_byte * len(data) + self.anyhow
        assert taken <= most, f"{len(data)} bytes take {taken} bytes of memory, {most} at most"
        return stage


def _place(error: Exception) -> str:
    """Where an input was refused, in few words."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        return "not JSON" if first["type"] == "json_invalid" else "by the model"
    if isinstance(error, RefusedUpdate):
        return error.reason.value
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    where = "" if trace is None else trace.tb_frame.f_code.co_name
    return where if error.__cause__ is None else f"{where} ({type(error.__cause__).__name__})"


def told(counts: Counter[str]) -> str:
    """The stages with the share of the inputs that ended there, most first."""
    every = counts.total()
    shares = (f"  {count:9,} {count / every:7.2%}  {name}" for name, count in counts.most_common())
    return "\n".join((f"  {every:9,} inputs counted", *shares))
