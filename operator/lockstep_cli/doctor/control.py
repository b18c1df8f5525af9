"""Checks of what runs jobs: Kubernetes, CRD, operator, rights, Prometheus, clock; pure."""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from lockstep_api import names
from lockstep_cli.doctor.drift import differences
from lockstep_cli.doctor.finding import (
    Finding,
    Json,
    Right,
    Scraping,
    Seen,
    State,
    Unseen,
    ok,
    unseen,
)
from lockstep_operator.core.scope import Claim, claim_of
from lockstep_operator.crd import crd

OLDEST = (1, 33)
"""Since when pods are resized in place without a switch."""
MOST_SKEW_S = 10.0
_SHOWN = 3
_INSTALL = "helm install lockstep charts/lockstep --namespace lockstep-system --create-namespace"
_UPGRADE = "helm upgrade lockstep charts/lockstep --namespace {namespace}"


def kubernetes(seen: Seen) -> Iterator[Finding]:
    """Is it new enough, and can pods be resized?"""
    if isinstance(seen.version, Unseen):
        yield unseen("kubernetes", seen.version)
        return
    found = version_of(seen.version)
    if found is not None and found < OLDEST:
        yield Finding(
            "kubernetes",
            State.WRONG,
            f"{seen.version} at {seen.host} is older than {OLDEST[0]}.{OLDEST[1]}",
            "upgrade the cluster: the chart does not install there",
        )
    else:
        yield ok("kubernetes", f"{seen.version} at {seen.host}")
    if isinstance(seen.core, Unseen):
        yield unseen("resize", seen.core)
    elif "pods/resize" in seen.core:
        yield ok("resize", "pods are resized in place")
    else:
        yield Finding(
            "resize",
            State.WARNING,
            "this Kubernetes has no pods/resize: devices keep to their limits themselves",
            "enable feature gate InPlacePodVerticalScaling, or leave it at that",
        )


def version_of(text: str) -> tuple[int, int] | None:
    """Major and minor of a version such as v1.36.2-eks."""
    found = re.match(r"v?(\d+)\.(\d+)", text)
    return (int(found[1]), int(found[2])) if found else None


def clock(seen: Seen) -> Iterator[Finding]:
    """Do this machine and the apiserver agree on the time?"""
    if isinstance(seen.server_time, Unseen):
        return
    skew_s = (seen.now - seen.server_time).total_seconds()
    if abs(skew_s) <= MOST_SKEW_S:
        return
    ahead = "ahead of" if skew_s > 0 else "behind"
    yield Finding(
        "clock",
        State.WARNING,
        f"this machine is {abs(skew_s):.0f} s {ahead} the cluster: ages are off by that",
        "set its clock: timedatectl set-ntp true",
    )


def definition(seen: Seen) -> Iterator[Finding]:
    """Is the CRD there, and this release's?"""
    if isinstance(seen.crd, Unseen):
        yield unseen("crd", seen.crd)
    elif seen.crd is None:
        yield Finding("crd", State.WRONG, "Lockstep is not installed: there is no CRD", _INSTALL)
    elif not _established(seen.crd):
        said = "the apiserver does not serve FederatedJob yet: the CRD is not Established"
        yield Finding("crd", State.WRONG, said, f"kubectl describe crd {_crd_name()}")
    else:
        yield _drift(seen, seen.crd)


def _crd_name() -> str:
    return f"{names.PLURAL}.{names.GROUP}"


def _established(found: Json) -> bool:
    conditions = (found.get("status") or {}).get("conditions") or ()
    return any(one["type"] == "Established" and one["status"] == "True" for one in conditions)


def _drift(seen: Seen, found: Json) -> Finding:
    wanted = crd()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    served = [one for one in found["spec"]["versions"] if one["name"] == names.VERSION]
    schema = served[0]["schema"]["openAPIV3Schema"] if served else {}
    told = list(differences(wanted, schema))
    if not told:
        return ok("crd", f"{names.API_VERSION}, as this program knows it")
    more = f", and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
    said = f"the CRD is not that of {seen.ours}: {'; '.join(told[:_SHOWN])}{more}"
    others = {_labelled(one) for one in _operators(seen)} - {seen.ours, None}
    if others:
        theirs = min(map(str, others))
        todo = f"use the lockstep of the cluster's release: pip install lockstep=={theirs}"
        return Finding("crd", State.WARNING, said, todo)
    todo = "lockstep-crds crd.yaml && kubectl apply --server-side --force-conflicts -f crd.yaml"
    return Finding("crd", State.WRONG, said, todo)


def _operators(seen: Seen) -> list[Json]:
    return [] if isinstance(seen.deployments, Unseen) else list(seen.deployments)


def _labelled(deployment: Json) -> str | None:
    labels = deployment["metadata"].get("labels") or {}
    return labels.get("app.kubernetes.io/version")


def operator(seen: Seen) -> Iterator[Finding]:
    """Is an operator there, ready, and does one lead?"""
    if isinstance(seen.deployments, Unseen):
        yield unseen("operator", seen.deployments)
    elif not seen.deployments:
        said = "no operator is installed: nobody looks at FederatedJobs"
        yield Finding("operator", State.WRONG, said, _INSTALL)
    else:
        for deployment in seen.deployments:
            yield from _for(seen, watched(deployment), found=_deployed(seen, deployment))
        yield from _releases(seen, seen.deployments)
    yield from _leader(seen)


def watched(deployment: Json) -> list[str]:
    """The namespaces that an operator looks after; all when empty."""
    for container in deployment["spec"].get("template", {}).get("spec", {}).get("containers", ()):
        for one in container.get("env") or ():
            if one["name"] == "LOCKSTEP_NAMESPACES":
                return list(json.loads(one.get("value") or "[]"))
    return []


def _for(seen: Seen, namespaces: Collection[str], *, found: Finding) -> Iterator[Finding]:
    """An operator of other namespaces is told of when something is wrong with it, as a warning."""
    if seen.namespace is None or not namespaces or seen.namespace in namespaces:
        yield found
    elif found.state is State.WRONG:
        yield replace(found, state=State.WARNING)


def _deployed(seen: Seen, deployment: Json) -> Finding:
    meta, wanted = deployment["metadata"], deployment["spec"].get("replicas", 1)
    where = f"{meta['namespace']}/{meta['name']}"
    ready = (deployment.get("status") or {}).get("readyReplicas") or 0
    if not wanted:
        todo = f"kubectl -n {meta['namespace']} scale deployment {meta['name']} --replicas=1"
        return Finding("operator", State.WRONG, f"{where} is scaled to 0: nobody runs jobs", todo)
    if ready:
        state = State.OK if ready >= wanted else State.WARNING
        why = "" if ready >= wanted else _why(seen, meta)
        return Finding("operator", state, f"{where}: {ready} of {wanted} ready{why}")
    todo = f"kubectl -n {meta['namespace']} describe pods -l app.kubernetes.io/component=operator"
    return Finding("operator", State.WRONG, f"{where} is not ready{_why(seen, meta)}", todo)


def _why(seen: Seen, meta: Json) -> str:
    """Why a pod of an operator does not run, as far as it says."""
    if isinstance(seen.operator_pods, Unseen):
        return ""
    said = [
        reason
        for pod in seen.operator_pods
        if pod["metadata"]["namespace"] == meta["namespace"] and (reason := trouble_of(pod))
    ]
    return f": {said[0]}" if said else ""


def trouble_of(pod: Json) -> str:
    """Why a pod does not run; empty: it runs, or nobody has said yet."""
    status = pod.get("status") or {}
    for one in (
        *(status.get("initContainerStatuses") or ()),
        *(status.get("containerStatuses") or ()),
    ):
        waiting = (one.get("state") or {}).get("waiting") or {}
        if waiting.get("reason") not in (None, "ContainerCreating", "PodInitializing"):
            message = waiting.get("message", "")
            return f"{waiting['reason']}{': ' if message else ''}{message}"
    for one in status.get("conditions") or ():
        if one["type"] == "PodScheduled" and one["status"] == "False":
            return str(one.get("message") or one.get("reason") or "it is not scheduled")
    return ""


def _releases(seen: Seen, deployments: Sequence[Json]) -> Iterator[Finding]:
    """The charts' releases beside this program's."""
    others = [one for one in deployments if _labelled(one) not in (None, seen.ours)]
    for one in others:
        home = one["metadata"]["namespace"]
        said = f"{seen.ours} here, {_labelled(one)} in {home}"
        todo = f"{_UPGRADE.format(namespace=home)}, or pip install lockstep=={_labelled(one)} here"
        yield Finding("version", State.WARNING, said, todo)
    if not others:
        yield ok("version", f"{seen.ours} here and in the cluster")


def _leader(seen: Seen) -> Iterator[Finding]:
    if isinstance(seen.leases, Unseen):
        yield unseen("leader", seen.leases)
        return
    yield from _scope(seen, [claim_of(lease) for lease in seen.leases])
    for lease in seen.leases:
        yield from _for(seen, claim_of(lease).namespaces, found=_led(seen, lease))


def _led(seen: Seen, lease: Json) -> Finding:
    spec, claim = lease["spec"], claim_of(lease)
    holder, renewed = spec.get("holderIdentity"), spec.get("renewTime")
    lasts_s = float(spec.get("leaseDurationSeconds") or 15)
    if not holder or renewed is None:
        said = f"nobody leads by lease {claim.lease}: no plan is made"
        return Finding("leader", State.WRONG, said, _LOOK)
    age_s = (_cluster_now(seen) - datetime.fromisoformat(renewed)).total_seconds()
    if age_s > lasts_s + MOST_SKEW_S:
        said = f"{holder} renewed lease {claim.lease} last {age_s:.0f} s ago: nobody leads"
        return Finding("leader", State.WRONG, said, _LOOK)
    return ok("leader", f"{holder}, for {', '.join(sorted(claim.namespaces)) or 'all namespaces'}")


def _scope(seen: Seen, claims: Sequence[Claim]) -> Iterator[Finding]:
    """Whether one of the operators looks after the namespace."""
    served = any(not one.namespaces or seen.namespace in one.namespaces for one in claims)
    if claims and seen.namespace and not served:
        said = f"no operator looks after namespace {seen.namespace}: {claims[0].shown}"
        todo = f"helm upgrade … with {seen.namespace} in watchNamespaces, or use -n"
        yield Finding("operator", State.WRONG, said, todo)


_LOOK = "lockstep-operator's log says why: kubectl logs -l app.kubernetes.io/component=operator -A"


def _cluster_now(seen: Seen) -> datetime:
    """Leases are dated by the cluster's clocks."""
    return seen.now if isinstance(seen.server_time, Unseen) else seen.server_time


def rights(seen: Seen) -> Iterator[Finding]:
    """May this user do what commands need, and the operator what it needs?"""
    yield from _rights("your rights", seen.rights, todo=_ASK)
    if not _is_absent(seen):
        todo = _UPGRADE.format(namespace="…")
        yield from _rights("operator's rights", seen.operator_rights, todo=todo)


def _is_absent(seen: Seen) -> bool:
    """No operator was installed, as far as one can tell: what it needs is no question."""
    return not isinstance(seen.deployments, Unseen) and not seen.deployments


_ASK = "kubectl create rolebinding … --clusterrole=edit --user=… by who runs the cluster"


def _rights(about: str, found: Mapping[Right, bool] | Unseen, *, todo: str) -> Iterator[Finding]:
    if isinstance(found, Unseen):
        yield unseen(about, found)
        return
    missing = [right for right, allowed in found.items() if not allowed]
    if not missing:
        yield ok(about, f"all {len(found)} that are needed")
        return
    told = "; ".join(
        f"{one.shown}{f' ({one.needed_for})' if one.needed_for else ''}" for one in missing
    )
    state = State.WRONG if any(one.vital for one in missing) else State.WARNING
    yield Finding(about, state, f"missing: {told}", todo)


_WITHOUT = "frequencies are planned from reports of rounds, and dashboards have no data"


def prometheus(seen: Seen) -> Iterator[Finding]:
    """Does it answer, and scrape running jobs?"""
    found = seen.scraping
    if isinstance(found, Unseen) and found.denied:
        yield unseen("prometheus", found)
    elif isinstance(found, Unseen):
        todo = "kubectl get pods -A -l app.kubernetes.io/component=prometheus"
        yield Finding("prometheus", State.WARNING, f"{found.why}; {_WITHOUT}", todo)
    elif found is None:
        if _is_absent(seen):
            return
        yield Finding(
            "prometheus",
            State.WARNING,
            f"the chart's Prometheus is not there; unless another scrapes Lockstep, {_WITHOUT}",
            "helm upgrade … --set prometheus.enabled=true, or operator.prometheusUrl with yours",
        )
    else:
        yield from _scraping(seen, found)
        yield from _unscraped(seen, found.jobs)


def _scraping(seen: Seen, found: Scraping) -> Iterator[Finding]:
    """Pods of other namespaces are others' business."""
    whose = f"{seen.namespace}/" if seen.namespace else ""
    down = [one for one in found.down if one.startswith(whose)]
    if not down:
        note = found.note and f"; {found.note}"
        yield ok("prometheus", f"{found.where} scrapes {found.up} pods{note}")
        return
    shown = ", ".join(down[:_SHOWN]) + (" …" if len(down) > _SHOWN else "")
    yield Finding(
        "prometheus",
        State.WARNING,
        f"{len(down)} pods do not answer {found.where}: {shown}",
        "look at their logs, and whether a NetworkPolicy keeps Prometheus from their port http",
    )


def _unscraped(seen: Seen, scraped: frozenset[tuple[str, str]]) -> Iterator[Finding]:
    """Jobs that run, but of which Prometheus has nothing."""
    jobs = [] if isinstance(seen.jobs, Unseen) else seen.jobs
    for job in jobs:
        meta, phase = job["metadata"], (job.get("status") or {}).get("phase")
        if phase == "Running" and (meta["namespace"], meta["name"]) not in scraped:
            yield Finding(
                "prometheus",
                State.WARNING,
                f"nothing is scraped of job {meta['namespace']}/{meta['name']}, which runs",
                "helm upgrade … --set watchNamespaces must have its namespace, or be empty",
            )
