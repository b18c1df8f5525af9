"""The pause container's program: it waits, reaps what is left to it, and ends when told."""

import platform
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.errors import ClusterError
from tests.cluster.pause_program import pause_program
from tests.support.patience import PATIENCE_S


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "pause"
    path.write_bytes(pause_program(platform.machine()))
    path.chmod(0o755)
    return path


@pytest.fixture
def running(program: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([program]) as child:
        yield child
        child.kill()


def signals(pid: int, field: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition(f"{field}:")[2].split()[0], 16)


def wait_until_it_waits(pid: int) -> None:
    """Until it sleeps in rt_sigtimedwait, by this machine's number of that call."""
    number = {"x86_64": "128", "aarch64": "137"}[platform.machine()]
    while not Path(f"/proc/{pid}/syscall").read_text().startswith(f"{number} "):
        pass


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_when_told(running: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    wait_until_it_waits(running.pid)
    assert signals(running.pid, "SigIgn") >> (signal.SIGCHLD - 1) & 1
    running.send_signal(number)
    assert running.wait(PATIENCE_S) == 0


def test_another_machine_is_refused() -> None:
    with pytest.raises(ClusterError, match="x86_64, aarch64, not on riscv64"):
        pause_program("riscv64")


def test_both_machines_have_one() -> None:
    for machine in ("x86_64", "aarch64"):
        assert pause_program(machine).startswith(b"\x7fELF")
