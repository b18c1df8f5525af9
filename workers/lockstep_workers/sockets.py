"""Socket options of both ends: a peer that vanishes without a word is noticed."""

import socket

_IDLE_S, _INTERVAL_S, _PROBES = 10, 5, 3
_UNANSWERED_MS = 120_000  # an emulated link may stand still for that long


def watch_peer(sock: socket.socket) -> None:
    """Keep-alive probes on an idle connection, a bound on data that nobody acknowledges."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    options = {
        "TCP_KEEPIDLE": _IDLE_S,
        "TCP_KEEPINTVL": _INTERVAL_S,
        "TCP_KEEPCNT": _PROBES,
        "TCP_USER_TIMEOUT": _UNANSWERED_MS,
    }
    for name, value in options.items():
        if hasattr(socket, name):  # not on every system
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
