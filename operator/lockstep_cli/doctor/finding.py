"""What a check says, and what the checks are given; pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

Json = dict[str, Any]


class State(StrEnum):
    """How it stands with something."""

    OK = "ok"
    UNSEEN = "not seen"
    """It could not be looked at."""
    WARNING = "warning"
    """Jobs run, but not as well as they could, or not all."""
    WRONG = "wrong"
    """No job runs until it is mended."""


@dataclass(frozen=True, slots=True)
class Finding:
    """On one thing."""

    about: str
    state: State
    said: str
    todo: str = ""
    """What mends it; empty where there is nothing to do."""


@dataclass(frozen=True, slots=True)
class Unseen:
    """Stands for what could not be looked at."""

    why: str
    denied: bool = False
    """For lack of a right."""


@dataclass(frozen=True, slots=True)
class Right:
    """Something that somebody may do in a namespace, or in the whole cluster."""

    verb: str
    resource: str
    """`pods`, or `pods/exec`."""
    group: str = ""
    needed_for: str = ""
    vital: bool = False
    """Nothing works without it."""
    whole_cluster: bool = False

    @property
    def shown(self) -> str:
        """As RBAC has it."""
        return f"{self.verb} {self.resource}{'.' if self.group else ''}{self.group}"


@dataclass(frozen=True, slots=True)
class Scraping:
    """What Prometheus says of itself."""

    where: str
    up: int
    """Pods that it scrapes and that answer."""
    down: tuple[str, ...]
    """Pods that do not answer."""
    jobs: frozenset[tuple[str, str]]
    """Namespace and name of the jobs whose pods it scrapes."""
    note: str = ""
    """How it was reached, where people should know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Everything that was looked at."""

    now: datetime
    """By the clock of this machine."""
    ours: str
    """The version of this program."""
    host: str
    namespace: str | None
    """Whose jobs are looked at; None: all."""
    server_time: datetime | Unseen
    version: str | Unseen
    """Of Kubernetes: `v1.36.2`."""
    core: frozenset[str] | Unseen
    """What the API has: `pods`, `pods/resize` and so on."""
    crd: Json | Unseen | None
    deployments: Sequence[Json] | Unseen
    """Of operators."""
    operator_pods: Sequence[Json] | Unseen
    leases: Sequence[Json] | Unseen
    rights: Mapping[Right, bool] | Unseen
    operator_rights: Mapping[Right, bool] | Unseen
    scraping: Scraping | Unseen | None
    """None: there is no Prometheus of Lockstep's."""
    nodes: Sequence[Json] | Unseen
    held: Mapping[str, float] | Unseen
    """Cores that pods request, by node."""
    classes: Sequence[Json] | Unseen
    """Of storage."""
    jobs: Sequence[Json] | Unseen
    pods: Sequence[Json] | Unseen
    """Of jobs."""
    events: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """The newest warning of a pod of a job or the operator, by namespace and name."""


Check = Callable[[Seen], Iterator[Finding]]


def ok(about: str, said: str) -> Finding:
    """All is well with it."""
    return Finding(about, State.OK, said)


def unseen(about: str, why: Unseen) -> Finding:
    """It could not be looked at."""
    return Finding(about, State.UNSEEN, why.why)
