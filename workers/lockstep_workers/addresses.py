"""Where the name of a server leads: to several places, of which one may be an impostor's.

A job's Services are headless: their names lead to every pod that has the labels. Used by all that
connect. Invariant: each of these places may be the first that is tried, so that nobody is asked
always before the server.
"""

import socket
from random import SystemRandom

MOST_ADDRESSES = 8
"""That are tried before the name is resolved anew."""
_SYSTEM = SystemRandom()


def addresses(host: str, port: int) -> list[str]:
    """Addresses of a name, at least one, in random order.

    Raises:
        OSError: there are none.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    unique = list(dict.fromkeys(str(one[4][0]) for one in found))
    return _SYSTEM.sample(unique, min(len(unique), MOST_ADDRESSES))
