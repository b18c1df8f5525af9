"""Why nodes do not get ready: what the API and the kubelets say, and what is likely behind it.

`readiness` asks when its patience ends. Decisions only, but for `machine_facts`, which reads what
they are about.
"""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cluster.command import run

_TAIL_BYTES = 200_000
_KLOG = re.compile(r"^[EF]\d{4} \S+ +\d+ (?P<text>.*)$", re.MULTILINE)
_PLAIN = re.compile(r"^(?P<text>(?:Error|panic|fatal).*)$", re.MULTILINE)
# True of every node that is not there yet, whatever the cause.
_ECHO = re.compile(r'not registered yet|node "[^"]*" not found|nodes "[^"]*" not found')
_SCARCE_MIB = 300
_BUSY_PER_CPU = 4.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What the machine is like while the nodes do not get ready."""

    available_mib: int
    load_per_cpu: float
    forwards: bool = True
    """Whether the packet filter lets this machine forward packets."""
    filters_bridges: bool = False
    """Whether the packet filter sees bridged packets (br_netfilter)."""
    inotify_instances: int = 0


def unready(items: Iterable[dict[str, Any]], names: Iterable[str]) -> dict[str, str]:
    """Of these nodes those that are not ready, and what the API server knows of each."""
    conditions = {item["metadata"]["name"]: _ready_condition(item) for item in items}
    return {
        name: _state(conditions.get(name))
        for name in names
        if conditions.get(name, {}).get("status") != "True"
    }


def _ready_condition(item: dict[str, Any]) -> dict[str, Any]:
    conditions = item.get("status", {}).get("conditions", [])
    return next((each for each in conditions if each["type"] == "Ready"), {})


def _state(condition: dict[str, Any] | None) -> str:
    if condition is None:
        return "never registered"
    return str(condition.get("message") or "has told nothing of itself")


def telling_lines(log: str, most: int = 2) -> tuple[str, ...]:
    """The last errors of a log, each kind once, without those that only echo others."""
    found: dict[str, str] = {}
    for match in [*_PLAIN.finditer(log), *_KLOG.finditer(log)]:
        text = match["text"]
        kind = re.sub(r"\d+|\"[^\"]*\"(?=$| )", "", text)
        if not _ECHO.search(text):
            found.pop(kind, None)
            found[kind] = text[:300]
    return tuple(found.values())[-most:]


def likely_cause(said: str, facts: Facts) -> str | None:
    """What is probably wrong, and what to do."""
    words = f"{_SCARCE} {said}" if facts.available_mib < _SCARCE_MIB else said
    for pattern, tell in _CAUSES:
        if re.search(pattern, words):
            return tell(facts)
    return _busy(facts) if facts.load_per_cpu > _BUSY_PER_CPU else None


def _busy(facts: Facts) -> str:
    return f"the machine is busy (load {facts.load_per_cpu:.0f} per CPU): try again later"


def _no_memory(facts: Facts) -> str:
    return f"{facts.available_mib} MiB of memory are free: end other programs or use fewer nodes"


def _no_watches(facts: Facts) -> str:
    most = facts.inotify_instances
    return f"watches are used up (of {most}): sysctl -w fs.inotify.max_user_instances=1024"


def _lost(facts: Facts) -> str:
    if facts.load_per_cpu > _BUSY_PER_CPU:
        return _busy(facts)
    policy = "" if facts.forwards else ", whose FORWARD policy is DROP"
    bridged = ", which sees bridged packets (br_netfilter)" if facts.filters_bridges else ""
    return (
        "packets between a node and the API server are lost: look for it in this machine's "
        f"packet filter{policy}{bridged} (`iptables -S`, `nft list ruleset`)"
    )


_SCARCE = "memory is scarce"
_CAUSES: tuple[tuple[str, Callable[[Facts], str]], ...] = (
    (rf"{_SCARCE}|cannot allocate memory|MemoryPressure", _no_memory),
    (r"too many open files|inotify", _no_watches),
    (r"no space left on device|[Dd]isk ?[Pp]ressure", lambda _: "the disk is full: free some"),
    (r"x509", lambda _: "the clock was set since `up` began: make cluster-down, then up again"),
    (r"i/o timeout|no route to host|timed out|deadline exceeded", _lost),
    (
        r"cgroup|ContainerManager",
        lambda _: "a cgroup controller is missing: `python3 -m tests.cluster.preflight` says which",
    ),
)


def report(states: Mapping[str, str], logs: Mapping[str, str], *, facts: Facts) -> str:
    """The states of nodes, the last errors of their kubelets, and the likely cause: a line each."""
    lines = []
    for name, state in states.items():
        lines.append(f"  node {name}: {state}")
        lines += [f"    its kubelet: {text}" for text in telling_lines(logs.get(name, ""))]
    if cause := likely_cause("\n".join(lines), facts):
        lines.append(f"  likely: {cause}")
    return "\n".join(lines)


def tail(log: Path) -> str:
    """The end of a log, which may be gone or long."""
    try:
        return log.read_bytes()[-_TAIL_BYTES:].decode(errors="replace")
    except OSError:
        return ""


def machine_facts() -> Facts:
    memory = re.search(r"^MemAvailable: +(\d+)", _text("/proc/meminfo"), re.MULTILINE)
    return Facts(
        available_mib=int(memory[1]) // 1024 if memory else 0,
        load_per_cpu=os.getloadavg()[0] / (os.cpu_count() or 1),
        forwards="-P FORWARD DROP" not in run("iptables", "-S", "FORWARD", check=False),
        filters_bridges=_text("/proc/sys/net/bridge/bridge-nf-call-iptables").strip() == "1",
        inotify_instances=int(_text("/proc/sys/fs/inotify/max_user_instances") or 0),
    )


def _text(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
