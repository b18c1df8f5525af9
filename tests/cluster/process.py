"""Long-running programs of a cluster: starting them, knowing them again, stopping them.

A pid alone is never trusted: it is written down with the process's start time and the machine's
boot id, so a number that another program got later, or after a reboot, is not taken for ours.
"""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from tests.cluster.errors import ClusterError

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class ProcessId:
    pid: int
    started: int
    """Clock ticks between boot and the start of the process."""
    boot: str

    @classmethod
    def of(cls, pid: int) -> "ProcessId | None":
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            return None
        return None if is_dead(stat) else cls(pid, start_ticks(stat), _BOOT_ID.read_text().strip())

    @property
    def alive(self) -> bool:
        return ProcessId.of(self.pid) == self

    def send(self, number: signal.Signals) -> None:
        if self.alive:
            with contextlib.suppress(ProcessLookupError):  # it ended between the two lines
                os.kill(self.pid, number)


def start_ticks(stat: str) -> int:
    """Field 22 of /proc/PID/stat; the name before it may hold spaces and parentheses."""
    return int(stat.rpartition(")")[2].split()[19])


def is_dead(stat: str) -> bool:
    """Whether all of it has ended: while a thread is left (field 20), so are sockets and files."""
    fields = stat.rpartition(")")[2].split()
    return fields[0] == "X" or (fields[0] == "Z" and int(fields[17]) <= 1)


def start(
    name: str, command: list[str], *, records: Path, logs: Path, namespace: Path
) -> ProcessId:
    """Start a program in a network namespace, detached, and write down who it is."""
    with (logs / f"{name}.log").open("ab") as log:
        child = subprocess.Popen(
            # Not `ip netns exec`: that remounts /sys and hides the cgroups.
            ["nsenter", f"--net={namespace}", "--", *command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    child.returncode = 0  # a daemon outlives us: no warning about a child that was not waited for
    identity = ProcessId.of(child.pid)
    if identity is None:
        raise ClusterError(f"{name} ended at once: see {logs / name}.log")
    (records / f"{name}.json").write_text(json.dumps(asdict(identity)))
    return identity


def recorded(records: Path) -> dict[str, ProcessId]:
    """Every program that was started, by name; a half-written record counts as none."""
    found = {}
    for path in sorted(records.glob("*.json")):
        try:
            found[path.stem] = ProcessId(**json.loads(path.read_text()))
        except (ValueError, TypeError):
            continue
    return found


def stop(identities: Iterable[ProcessId], *, grace_s: float = 0) -> None:
    """End processes: SIGTERM and a while to obey if `grace_s`, then SIGKILL."""
    living = [identity for identity in identities if identity.alive]
    if grace_s:
        for identity in living:
            identity.send(signal.SIGTERM)
        wait_gone(living, timeout_s=grace_s)
    for identity in living:
        identity.send(signal.SIGKILL)
    wait_gone(living, timeout_s=5)


def wait_gone(identities: Iterable[ProcessId], *, timeout_s: float) -> bool:
    remaining = list(identities)
    deadline = time.monotonic() + timeout_s
    while remaining and time.monotonic() < deadline:
        remaining = [identity for identity in remaining if identity.alive]
        time.sleep(0.02 if remaining else 0)
    return not remaining


def find(owns: Callable[[list[str]], bool]) -> list[ProcessId]:
    """Processes whose command line `owns` claims: for those that no record names."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        identity = ProcessId.of(int(folder.name)) if owns(words) else None
        if identity is not None and identity.pid != os.getpid():
            found.append(identity)
    return found
