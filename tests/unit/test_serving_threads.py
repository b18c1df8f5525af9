"""SIGTERM ends a device: its main thread hears it, whatever other threads there are."""

import os
import signal
import socket
import threading
from pathlib import Path

from lockstep_api.sessions import Registration
from lockstep_serving.probes import ProbeServer
from lockstep_workers.device.session import SessionKeeper
from tests.support.probing import Always

TASKS = Path("/proc/self/task")


def blocked(task: str) -> set[int]:
    """The signals that a thread of this process leaves to others."""
    lines = (TASKS / task / "status").read_text().splitlines()
    (mask,) = (int(line.split()[1], 16) for line in lines if line.startswith("SigBlk:"))
    return {number for number in range(1, 65) if mask >> (number - 1) & 1}


def test_the_threads_of_a_device_leave_sigterm_to_the_main_thread() -> None:
    """Delivered to another, it does not wake a main thread that waits."""
    before, others = set(os.listdir(TASKS)), set(threading.enumerate())
    probes = ProbeServer("127.0.0.1", 0, told=Always())
    nobody = Registration(client="d-0", incarnation="1", examples=1)
    with socket.create_server(("127.0.0.1", 0)) as cloud:
        SessionKeeper(f"http://127.0.0.1:{cloud.getsockname()[1]}", nobody).start()
        started = set(os.listdir(TASKS)) - before
        assert len(started) == 2
        assert all(signal.SIGTERM in blocked(task) for task in started)
        assert signal.SIGTERM not in blocked(str(os.getpid()))
        probes.close()
        answering, _ = cloud.accept()
        with answering:  # there is no such client: the keeper ends, and says no more
            answering.sendall(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
            for thread in set(threading.enumerate()) - others:
                thread.join()
