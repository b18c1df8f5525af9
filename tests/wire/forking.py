"""Worker processes that have imported everything when they start: `tests.wire.processes` has them.

A worker spends three seconds of a core on importing torch, and tests start a hundred. A template of
each process of pytest imports it once, and forks. What it forks is a process of its own, with its
own environment, memory, CPU time and death; it runs the same module as `python -m` would.
Invariant: a process keeps its number until whoever started it knows how it ended.
"""

import asyncio
import atexit
import functools
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

_MOST_BYTES = 1 << 17
_IMPORTED = (
    "lockstep_workers.cloud.main",
    "lockstep_workers.edge.main",
    "lockstep_workers.device.main",
)


class Process:
    """What was forked, for the event loop that started it; as `asyncio.subprocess.Process`."""

    def __init__(self, pid: int, pidfd: int, *, stdout: asyncio.StreamReader | None) -> None:
        """It runs."""
        self.pid, self.stdout = pid, stdout
        self.returncode: int | None = None
        self._pidfd, self._ended = pidfd, asyncio.Event()
        asyncio.get_running_loop().add_reader(pidfd, self._end)

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._pidfd)
        os.close(self._pidfd)
        self.returncode = _template().ended(self.pid)
        self._ended.set()

    async def wait(self) -> int:
        """How it ended: its status, or the signal's number below 0."""
        await self._ended.wait()
        assert self.returncode is not None
        return self.returncode

    def terminate(self) -> None:
        """SIGTERM."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)


async def fork(program: str, *words: str, env: Mapping[str, str], piped: bool) -> Process:
    """Starts `python -m program words`; what it says goes where ours goes, or to a pipe."""
    if not piped:
        return Process(*_template().start((program, *words), env, outputs=(1, 2)), stdout=None)
    reading, writing = os.pipe()
    try:
        started = _template().start((program, *words), env, outputs=(writing, 2))
    finally:
        os.close(writing)
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb")
    )
    return Process(*started, stdout=reader)


@dataclass(frozen=True, slots=True)
class _Template:
    """The process that forks; it ends when nobody has the other end of its socket."""

    process: "subprocess.Popen[bytes]"
    socket: socket.socket

    def start(
        self, words: Sequence[str], env: Mapping[str, str], *, outputs: Sequence[int]
    ) -> tuple[int, int]:
        """The number of a new process, and a descriptor that can be read once it has ended."""
        asked = json.dumps({"words": words, "env": dict(env)}).encode()
        socket.send_fds(self.socket, [asked], list(outputs))
        told, (pidfd,), _, _ = socket.recv_fds(self.socket, _MOST_BYTES, 1)
        return int(told), pidfd

    def ended(self, pid: int) -> int:
        """How a process has ended, of which nobody asks again."""
        self.socket.send(json.dumps({"ended": pid}).encode())
        return int(self.socket.recv(_MOST_BYTES))

    def close(self) -> None:
        """Ends it."""
        self.socket.close()
        self.process.wait()


@functools.cache
def _template() -> _Template:
    ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with its:
        command = (sys.executable, "-m", __name__, str(its.fileno()))
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        made = _Template(subprocess.Popen(command, pass_fds=[its.fileno()], env=env), ours)
    atexit.register(made.close)
    return made


def _serve(asker: socket.socket) -> list[str] | None:
    """Forks as it is asked to; in what was forked returns what it has to run."""
    while True:
        content, descriptors, _, _ = socket.recv_fds(asker, _MOST_BYTES, 2)
        if not content:
            return None
        asked = json.loads(content)
        if "ended" in asked:
            _, status = os.waitpid(asked["ended"], 0)
            asker.send(str(os.waitstatus_to_exitcode(status)).encode())
            continue
        pid = os.fork()
        if not pid:
            asker.close()
            _become(asked["env"], descriptors)
            return list(asked["words"])
        pidfd = os.pidfd_open(pid)
        socket.send_fds(asker, [str(pid).encode()], [pidfd])
        for descriptor in (pidfd, *descriptors):
            os.close(descriptor)


def _become(env: Mapping[str, str], outputs: Sequence[int]) -> None:
    """Takes over what else a new process has from whoever starts it."""
    for number, descriptor in enumerate(outputs, start=1):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(env)
    sys.path[1:1] = [one for one in env.get("PYTHONPATH", "").split(os.pathsep) if one]


def _main() -> None:
    for name in _IMPORTED:
        __import__(name)
    gc.freeze()  # what was imported is shared: nobody looks through it, nor copies it so
    with socket.socket(fileno=int(sys.argv[1])) as asker:
        words = _serve(asker)
    if words is not None:
        sys.argv = words
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _main()
