"""Ports of the loopback for servers that are told theirs before they start, and after a restart."""

import socket

_RESERVED: list[socket.socket] = []


def free_port() -> int:
    """A port of the loopback that stays ours until this process ends.

    The socket that holds it is bound and does not listen. Servers, which set SO_REUSEADDR, may use
    the port beside it; the kernel gives it to nobody who asks for any port.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("127.0.0.1", 0))
    _RESERVED.append(holder)
    port: int = holder.getsockname()[1]
    return port
