"""Which logs of a job's pods are read, and how their lines look; pure.

`logs` reads them. Invariant: a line that a pod wrote stays one line of the terminal, whatever is in
it, and says whose it is.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lockstep_api.names import WORKER_CONTAINER, Role
from lockstep_api.text import printable
from lockstep_cli.cluster import PODS, Request, path_of
from lockstep_cli.pods import Pod

_COLOURS = ("cyan", "green", "yellow", "magenta", "blue", "red")
_USUAL = "info"
_ROLES = (Role.CLOUD, Role.EDGE, Role.DEVICE, Role.TRAINER)


@dataclass(frozen=True, slots=True)
class Asked:
    """Which lines are wanted."""

    tier: Role | None = None
    pods: Sequence[str] = ()
    """Names of pods, or of clients and edges."""
    tail: int = -1
    """Lines of each pod; all when negative."""
    since_s: int | None = None
    follow: bool = False

    def has(self, pod: Pod) -> bool:
        """Whether a pod's log is wanted."""
        named = not self.pods or pod.name in self.pods or pod.short in self.pods
        return named and self.tier in (None, pod.role)


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a pod's log."""

    pod: Pod
    stamp: str
    """When it was written (RFC 3339)."""
    text: str


Run = tuple[str, int]
"""A pod's container: a restarted one has a new log."""


def run_of(pod: Pod) -> Run:
    """What a log is of."""
    return str(pod.body["metadata"].get("uid", pod.name)), pod.restarts


def request_for(pod: Pod, asked: Asked) -> Request:
    """How a pod's log is asked for: with times, so that lines of many can be put in order."""
    namespace = str(pod.body["metadata"]["namespace"])
    query: dict[str, Any] = {"container": WORKER_CONTAINER, "timestamps": "true"}
    query |= {"follow": "true"} if asked.follow else {}
    query |= {"tailLines": asked.tail} if asked.tail >= 0 else {}
    query |= {"sinceSeconds": asked.since_s} if asked.since_s is not None else {}
    path = path_of(PODS, namespace, name=pod.name, part="log")
    return Request("GET", path, query, accept="*/*", resource=PODS, namespace=namespace)


def line_of(pod: Pod, raw: bytes) -> Line:
    """A line as the apiserver sends it: its time, a blank, what was written."""
    stamp, _, text = raw.decode(errors="replace").partition(" ")
    return Line(pod, stamp, text)


def wanted(pods: Iterable[Pod], asked: Asked) -> list[Pod]:
    """Whose logs are read: the cloud pod's first."""
    chosen = [pod for pod in pods if asked.has(pod)]
    return sorted(chosen, key=lambda pod: (_rank(pod), pod.name))


def _rank(pod: Pod) -> int:
    return _ROLES.index(Role(pod.role)) if pod.role in set(_ROLES) else len(_ROLES)


def colour_of(name: str) -> str:
    """Always the same for a pod."""
    return _COLOURS[sum(name.encode()) % len(_COLOURS)]


def shown(line: Line, *, width: int, stamps: bool, raw: bool) -> tuple[str, str]:
    """Whose it is, and what it says."""
    said = line.text if raw else readable(line.text)
    text = printable(said.replace("\t", "    "))
    return f"{line.pod.short:<{width}} | ", f"{line.stamp} {text}" if stamps else text


def readable(text: str) -> str:
    """A worker's line of JSON as people read it: when, what, and what belongs to it."""
    try:
        entry = json.loads(text)
        event, moment = entry.pop("event"), entry.pop("timestamp")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return text
    level = str(entry.pop("level", _USUAL))
    told = " ".join(f"{key}={value}" for key, value in entry.items())
    loud = "" if level == _USUAL else f"{level.upper()} "
    return f"{str(moment)[11:19]} {loud}{event}  {told}".rstrip()
