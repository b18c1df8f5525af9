"""The program of the pause container, assembled here: it takes a few instructions, and no compiler.

`pause` makes the image of it. It holds a pod's namespaces open: as process 1 of a pod it lets the
kernel reap orphans (SIGCHLD is ignored) and waits for SIGTERM or SIGINT, which it blocks, since
process 1 never gets what it neither blocks nor handles.
"""

import struct
from collections.abc import Callable, Iterable

from tests.cluster.errors import ClusterError

_BASE = 0x400000
_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SEGMENT = struct.Struct("<IIQQQQQQ")
_CODE_AT = _BASE + _HEADER.size + _SEGMENT.size
_IGNORE = struct.pack("<4Q", 1, 0, 0, 0)
"""struct sigaction: handler SIG_IGN, no flags, no restorer, no mask."""
_SIGNALS = struct.pack("<Q", 1 << (2 - 1) | 1 << (15 - 1))
"""SIGINT and SIGTERM."""
_SIGCHLD, _SET_SIZE = 17, 8

Assemble = Callable[[int, int], bytes]
"""Machine code, given the addresses of `_IGNORE` and `_SIGNALS`."""


def pause_program(machine: str) -> bytes:
    """A static ELF executable for this machine, as `platform.machine()` names it."""
    try:
        kind, assemble = _MACHINES[machine]
    except KeyError:
        known = ", ".join(_MACHINES)
        raise ClusterError(f"the embedded cluster runs on {known}, not on {machine}") from None
    data_at = _CODE_AT + len(assemble(0, 0))
    code = assemble(data_at, data_at + len(_IGNORE)) + _IGNORE + _SIGNALS
    return _elf(kind, code)


def _elf(machine: int, content: bytes) -> bytes:
    """One segment that is read and executed, nothing else."""
    size = _HEADER.size + _SEGMENT.size + len(content)
    header = _HEADER.pack(
        b"\x7fELF\x02\x01\x01", 2, machine, 1, _CODE_AT, _HEADER.size, 0, 0,
        _HEADER.size, _SEGMENT.size, 1, 0, 0, 0,
    )  # fmt: skip
    segment = _SEGMENT.pack(1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + content


def _x86_64(ignore: int, signals: int) -> bytes:
    def put(opcode: int, value: int) -> bytes:
        return bytes([opcode]) + struct.pack("<I", value)

    eax, esi, edi = 0xB8, 0xBE, 0xBF
    edx_0, esi_0, edi_0, syscall = b"\x31\xd2", b"\x31\xf6", b"\x31\xff", b"\x0f\x05"
    r10 = b"\x41\xba" + struct.pack("<I", _SET_SIZE)
    wait = put(eax, 128) + put(edi, signals) + esi_0 + edx_0 + syscall + b"\x85\xc0"
    again = b"\x78" + struct.pack("b", -(len(wait) + 2))
    return b"".join([
        put(eax, 13), put(edi, _SIGCHLD), put(esi, ignore), edx_0, r10, syscall,  # rt_sigaction
        put(eax, 14), edi_0, put(esi, signals), edx_0, syscall,  # rt_sigprocmask: block
        wait, again,  # rt_sigtimedwait, without a time
        put(eax, 60), edi_0, syscall,  # exit 0
    ])  # fmt: skip


def _aarch64(ignore: int, signals: int) -> bytes:
    words: list[int] = []

    def put(register: int, value: int) -> None:
        words.append(0xD2800000 | value << 5 | register)

    def address(register: int, target: int) -> None:
        offset = target - (_CODE_AT + 4 * len(words))
        words.append(0x10000000 | (offset & 3) << 29 | (offset >> 2 & 0x7FFFF) << 5 | register)

    def call(number: int, arguments: Iterable[tuple[Callable[[int, int], None], int]]) -> None:
        for register, (load, value) in enumerate(arguments):
            load(register, value)
        put(8, number)
        words.append(0xD4000001)

    call(134, [(put, _SIGCHLD), (address, ignore), (put, 0), (put, _SET_SIZE)])
    call(135, [(put, 0), (address, signals), (put, 0), (put, _SET_SIZE)])
    again = len(words)
    call(137, [(address, signals), (put, 0), (put, 0), (put, _SET_SIZE)])
    words.append(0x37F80000 | (again - len(words) & 0x3FFF) << 5)  # tbnz w0, #31, again
    call(93, [(put, 0)])
    return struct.pack(f"<{len(words)}I", *words)


_MACHINES: dict[str, tuple[int, Assemble]] = {"x86_64": (62, _x86_64), "aarch64": (183, _aarch64)}
