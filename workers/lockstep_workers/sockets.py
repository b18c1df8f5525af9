"""Socket options of both ends: a peer that vanishes without a word is noticed."""

import socket
import sys
from collections.abc import Callable
from typing import Protocol

_IDLE_S, _INTERVAL_S, _PROBES = 10, 5, 3
_UNANSWERED_MS = 120_000  # an emulated link may stand still for that long

_SILENT_MS = 1000 * (_IDLE_S + 2 * _INTERVAL_S)
_LAST_ACK = slice(56, 60)
"""`tcpi_last_ack_recv` in Linux's struct tcp_info: milliseconds since the peer's last sign."""


class Options(Protocol):
    """A socket, or what an event loop lets one see of it."""

    @property
    def getsockopt(self) -> Callable[[int, int, int], bytes]:
        """As of every socket: level, option, bytes of the answer."""


def watch_peer(sock: socket.socket) -> None:
    """Keep-alive probes on an idle connection, a bound on data that nobody acknowledges."""
    for level, option, value in keep_alive():
        sock.setsockopt(level, option, value)


def keep_alive() -> list[tuple[int, int, int]]:
    """These options, as level, option and value, for who has no socket yet."""
    options = {
        "TCP_KEEPIDLE": _IDLE_S,
        "TCP_KEEPINTVL": _INTERVAL_S,
        "TCP_KEEPCNT": _PROBES,
        "TCP_USER_TIMEOUT": _UNANSWERED_MS,
    }
    there = {name: value for name, value in options.items() if hasattr(socket, name)}
    of_tcp = [(socket.IPPROTO_TCP, getattr(socket, name), value) for name, value in there.items()]
    return [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), *of_tcp]


def is_silent(sock: Options) -> bool:
    """Whether a watched peer has left two probes unanswered: its machine or its way is gone.

    So is one whose connection is closed, although nobody was told so far.
    """
    if not hasattr(socket, "TCP_INFO"):  # not on every system
        return False
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_ACK.stop)
    except OSError:
        return True
    return int.from_bytes(info[_LAST_ACK], sys.byteorder) > _SILENT_MS
