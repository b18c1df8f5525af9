"""What the operator may ask of Kubernetes: one table, of which the chart's roles are made.

`kube_transport` lets no call out that is not in the table, so code cannot call what no role grants;
`python -m lockstep_operator.rights` (`make crds`) writes the table as rules for the chart. Who adds
a call adds its row here. Invariant: a row says who needs it and what for, and grants no more.
"""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from lockstep_api import names

PATH = "charts/lockstep/templates/operator/_rights.tpl"
_HEADER = (
    "{{/* Made by `make crds` from lockstep_operator.rights; edits here are lost. */}}\n"
    "{{/* What each scope means is said in rbac.yaml, which gives the roles. */}}\n"
)
_CHANGED = ("get", "list", "watch", "create", "patch", "delete")


class Scope(StrEnum):
    """Where a right holds."""

    JOBS = "jobs"
    """In the namespaces whose jobs are run: with `watchNamespaces` in these, else everywhere."""
    CLUSTER = "cluster"
    """In the whole cluster, whichever namespaces are watched."""
    OWN = "own"
    """In the operator's own namespace."""
    SEED = "seed"
    """There, too, where the operator makes certificates."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """A row: verbs on resources of a group."""

    why: str
    resources: tuple[str, ...] = ()
    """With the subresource, as roles have it: `pods/resize`."""
    verbs: tuple[str, ...]
    group: str = ""
    scope: Scope = Scope.JOBS
    only: tuple[str, ...] = ()
    """Names of the objects; empty: all."""
    urls: tuple[str, ...] = ()
    """Paths that are no resource, instead of resources."""
    called: bool = True
    """Whether the operator's own door calls it; else `why` says who needs it."""


RIGHTS = (
    Right(
        why="Jobs as they are; delete is for ttlSecondsAfterFinished.",
        group=names.GROUP,
        resources=(names.PLURAL,),
        verbs=("get", "list", "watch", "delete"),
    ),
    Right(
        why="What became of a job.",
        group=names.GROUP,
        resources=(f"{names.PLURAL}/status",),
        verbs=("patch",),
    ),
    Right(
        why="Owner references that block the owner's deletion, where the cluster checks them: it"
        " asks for this right, nobody calls it.",
        group=names.GROUP,
        resources=(f"{names.PLURAL}/finalizers",),
        verbs=("update",),
        called=False,
    ),
    Right(
        why="What a job is made of. An object is read before it is written: whose it is.",
        group="apps",
        resources=("statefulsets",),
        verbs=_CHANGED,
    ),
    Right(
        why="Trainers, for allocation.online.",
        group="batch",
        resources=("jobs",),
        verbs=_CHANGED,
    ),
    Right(
        why="What a drain may evict of a job.",
        group="policy",
        resources=("poddisruptionbudgets",),
        verbs=_CHANGED,
    ),
    Right(
        why="Who may connect to a job's pods.",
        group="networking.k8s.io",
        resources=("networkpolicies",),
        verbs=_CHANGED,
    ),
    Right(
        why="What the pods of a job find by name.",
        resources=("services", "configmaps", "serviceaccounts", "persistentvolumeclaims"),
        verbs=_CHANGED,
    ),
    Right(
        why="Pods of jobs; patch is for the labels that tell a pod's cluster and edge.",
        resources=("pods",),
        verbs=("list", "watch", "patch"),
    ),
    Right(
        why="A device's CPU limit of a round.",
        resources=("pods/resize",),
        verbs=("patch",),
    ),
    Right(
        why="What a starting pod may have.",
        resources=("limitranges", "resourcequotas"),
        verbs=("list", "watch"),
    ),
    Right(
        why="Its own, and what is warned of about a job's pods, sets and volume.",
        resources=("events",),
        verbs=("list", "watch", "create"),
    ),
    Right(
        why="Placement: what the nodes have.",
        scope=Scope.CLUSTER,
        resources=("nodes",),
        verbs=("list", "watch"),
    ),
    Right(
        why="Placement: what their pods already ask for.",
        scope=Scope.CLUSTER,
        resources=("pods",),
        verbs=("list",),
    ),
    Right(
        why="Who asks for a plan.",
        scope=Scope.CLUSTER,
        group="authentication.k8s.io",
        resources=("tokenreviews",),
        verbs=("create",),
    ),
    Right(
        why="With which keys tokens are signed: cloud pods check those of devices and edges.",
        scope=Scope.CLUSTER,
        urls=("/.well-known/openid-configuration", "/openid/v1/jwks"),
        verbs=("get",),
    ),
    Right(
        why="Which other operators are there, and which namespaces they look after.",
        scope=Scope.CLUSTER,
        group="coordination.k8s.io",
        resources=("leases",),
        verbs=("list",),
    ),
    Right(
        why="Whether these may look after what they say.",
        scope=Scope.CLUSTER,
        group="authorization.k8s.io",
        resources=("subjectaccessreviews",),
        verbs=("create",),
    ),
    Right(
        why="Leader election: no name can be given where an object is made.",
        scope=Scope.OWN,
        group="coordination.k8s.io",
        resources=("leases",),
        verbs=("create",),
    ),
    Right(
        why="Leader election.",
        scope=Scope.OWN,
        group="coordination.k8s.io",
        resources=("leases",),
        verbs=("get", "update"),
        only=("lockstep-operator",),
    ),
    Right(
        why="The seed of all certificates: made once, if it is missing.",
        scope=Scope.SEED,
        resources=("secrets",),
        verbs=("create",),
    ),
    Right(
        why="No other Secret is read.",
        scope=Scope.SEED,
        resources=("secrets",),
        verbs=("get",),
        only=("lockstep-authority",),
    ),
)

_AS_ROLES_SAY = {"apply": "patch"}


@dataclass(frozen=True, slots=True)
class Called:
    """What a call is to roles."""

    verb: str
    group: str
    resource: str
    """With the subresource; of a path that is no resource the path."""

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}" + (f" of {self.group}" if self.group else "")


def called(verb: str, path: str) -> Called:
    """A request of the door, as roles see it."""
    verb, (_, root, *parts) = _AS_ROLES_SAY.get(verb, verb), path.split("/")
    if root not in {"api", "apis"}:
        return Called(verb, "", path)
    group, parts = ("", parts[1:]) if root == "api" else (parts[0], parts[2:])
    if parts[0] == "namespaces" and len(parts) > 2:
        parts = parts[2:]
    subresource = f"/{parts[2]}" if len(parts) == 3 else ""
    return Called(verb, group, parts[0] + subresource)


def granted(call: Called) -> bool:
    """Whether a row grants a call, somewhere."""
    return call in _GRANTED


def calls(rights: Iterable[Right]) -> Iterator[Called]:
    """What rows grant, one by one."""
    for one in rights:
        for resource in (*one.resources, *one.urls):
            yield from (Called(verb, one.group, resource) for verb in one.verbs)


_GRANTED = frozenset(calls(RIGHTS))


def of(scope: Scope) -> list[Right]:
    return [one for one in RIGHTS if one.scope is scope]


def text() -> str:
    """The rules of each scope, as a template that the chart includes."""
    defined = (
        f'{{{{- define "lockstep.rights.{scope}" -}}}}\n'
        + "".join(map(_rule, of(scope)))
        + "{{- end }}\n"
        for scope in Scope
    )
    return _HEADER + "".join(defined)


def _rule(one: Right) -> str:
    lines = [f"# {one.why}"]
    if one.urls:
        lines.append(f"- nonResourceURLs: {_listed(one.urls)}")
    else:
        lines.append("- apiGroups: " + (f"[{one.group}]" if one.group else '[""]'))
        lines.append(f"  resources: {_listed(one.resources)}")
    if one.only:
        lines.append(f"  resourceNames: {_listed(one.only)}")
    return "\n".join([*lines, f"  verbs: {_listed(one.verbs)}", ""])


def _listed(words: Iterable[str]) -> str:
    return f"[{', '.join(words)}]"


def main() -> None:
    """`python -m lockstep_operator.rights FILE`: writes the rules."""
    if len(sys.argv) != 2:
        raise SystemExit("usage: python -m lockstep_operator.rights FILE")
    Path(sys.argv[1]).write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
