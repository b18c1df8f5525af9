"""The program `lockstep` as people run it: a process of its own, with the cluster's kubeconfig."""

import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from fcntl import ioctl
from pathlib import Path

from tests.cluster import api
from tests.e2e.running import NAMESPACE
from tests.support.patience import PATIENCE_S

PROGRAM = (sys.executable, "-m", "lockstep_cli")


@dataclass(frozen=True, slots=True)
class Ran:
    """How a run ended."""

    code: int
    out: str
    err: str


def environment(**more: str) -> dict[str, str]:
    """This process's environment with the cluster's kubeconfig and kubectl, and no colours."""
    path = f"{api.tools()}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "KUBECONFIG": str(api.kubeconfig()), "PATH": path, "NO_COLOR": "1"} | more


def start(*words: str, namespace: str = NAMESPACE) -> "subprocess.Popen[str]":
    """Begins a run, whose output is piped."""
    return subprocess.Popen(
        (*PROGRAM, "-n", namespace, *words),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
    )


def ended(process: "subprocess.Popen[str]") -> Ran:
    """The end of a run."""
    out, err = process.communicate(timeout=PATIENCE_S)
    return Ran(process.returncode, out, err)


def cli(*words: str, namespace: str = NAMESPACE) -> Ran:
    """A run from beginning to end."""
    return ended(start(*words, namespace=namespace))


def plugin(folder: Path) -> dict[str, str]:
    """An environment in which kubectl finds the program as its plugin, as pip would install it."""
    script = folder / "kubectl-lockstep"
    script.write_text(f"#!{sys.executable}\nfrom lockstep_cli.app import main\nmain()\n")
    script.chmod(0o755)
    found = environment()
    return {**found, "PATH": f"{folder}{os.pathsep}{found['PATH']}"}


def on_a_terminal(
    *words: str, until: Callable[[str], bool], columns: int = 100, lines: int = 30
) -> Ran:
    """Runs a command on a terminal until what was drawn is enough, then presses Ctrl-C."""
    leader, follower = pty.openpty()
    ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    process = subprocess.Popen(
        (*PROGRAM, "-n", NAMESPACE, *words),
        env=environment(TERM="xterm"), stdin=follower, stdout=follower, stderr=subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    os.close(follower)
    try:
        drawn = _read(leader, until)
        process.send_signal(signal.SIGINT)
        threading.Thread(target=_read_on, args=(leader,), daemon=True).start()
        _, err = process.communicate(timeout=PATIENCE_S)
        return Ran(process.returncode, drawn, err.decode())
    finally:
        process.kill()
        os.close(leader)


def _read_on(leader: int) -> None:
    """Whoever is not read any more could not draw the end of his screen, and would not end."""
    with suppress(OSError):  # nobody writes any more
        while os.read(leader, 65_536):
            pass


def _read(leader: int, until: Callable[[str], bool]) -> str:
    drawn, deadline = b"", time.monotonic() + PATIENCE_S
    while (left_s := deadline - time.monotonic()) > 0:
        if not select.select([leader], [], [], left_s)[0]:
            break
        drawn += os.read(leader, 65_536)
        if until(drawn.decode(errors="replace")):
            return drawn.decode(errors="replace")
    raise AssertionError(f"not within {PATIENCE_S} s: {drawn.decode(errors='replace')[-3000:]}")
