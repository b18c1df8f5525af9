"""Connections notice a peer that vanishes: the options of both ends."""

import socket
from contextlib import closing

from lockstep_workers.device.connection import connect
from lockstep_workers.hosting.front import watched_listener


def test_both_ends_watch_each_other() -> None:
    with watched_listener("127.0.0.1", 0) as server:
        device = connect(f"http://127.0.0.1:{server.getsockname()[1]}")
        accepted, _ = server.accept()
        with accepted, closing(device):
            for end in (accepted, device.sock):
                assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 10
                assert end.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 120_000
