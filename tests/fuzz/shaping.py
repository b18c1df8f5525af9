"""Inputs that are in order on the outside whatever a fuzzer made of the inside.

Lengths, checksums and signatures keep blind changes from going further than the first look. So a
target reads some of its inputs as they are, and others with all that put right.
"""

import struct
from collections.abc import Sequence

_LENGTH = struct.Struct("<Q")


def way_of(data: bytes, ways: int) -> tuple[int, bytes]:
    """Which of so many ways an input is to be read, as its first byte says, and the rest."""
    return (data[0] if data else 0) % ways, data[1:]


def in_ways(*each: Sequence[bytes]) -> tuple[bytes, ...]:
    """Seeds, those of each way after another."""
    return tuple(bytes((way,)) + seed for way, seeds in enumerate(each) for seed in seeds)


def framed(data: bytes) -> bytes:
    """A safetensors file of a header and what lies behind it, which a zero byte parts."""
    head, _, values = data.partition(b"\0")
    return _LENGTH.pack(len(head)) + head + values


def unframed(file: bytes) -> bytes:
    """What `framed` makes a file of."""
    (size,) = _LENGTH.unpack_from(file)
    return file[8 : 8 + size].rstrip() + b"\0" + file[8 + size :]


def file_in(data: bytes) -> bytes:
    """A safetensors file as it is, or framed."""
    way, rest = way_of(data, 2)
    return framed(rest) if way else rest


def of_file(*files: bytes) -> tuple[bytes, ...]:
    """Seeds for `file_in`."""
    return in_ways(files, [unframed(file) for file in files])
