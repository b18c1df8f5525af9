"""Puts the CPU limits of a plan in force: resizes device pods in place and waits for the kubelets.

The planner calls it once a round, and again where others are planned around a limit that stays.
Only limits change, and only those of pods that belong to a set of the job. A limit is in force when
the pod's status shows it; what does not get there within the time allowed comes back with its
reason. Where resizing is refused for good (no such subresource, RBAC, admission, a kubelet that
says Infeasible) the device has to keep to its limit itself; such a refusal is remembered for a
while.
"""

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lockstep_api import names
from lockstep_api.quantity import parse_quantity
from lockstep_operator.core.model import JobKey, Manifest
from lockstep_operator.core.ownership import is_of_its_set
from lockstep_operator.errors import KubeError, NotFound, NotServed, Refused, Unavailable
from lockstep_operator.kube import POD, Kube
from lockstep_operator.kube_lists import Listing
from lockstep_operator.metrics import Metrics
from lockstep_operator.views import condition

CONCURRENT_PATCHES = 20
WHOLE_S = 7.0
WAIT_S = 3.0
RETRY_S = 60.0

Clock = Callable[[], float]
_NOT_IN_TIME = "TimedOut", ""


@dataclass(slots=True)
class Refusals:
    """Pods whose resize was refused for good, by job: not tried again for RETRY_S seconds."""

    clock: Clock = time.monotonic
    _known: dict[tuple[JobKey, str], tuple[float, str]] = field(default_factory=dict)
    """(job, pod) → until when, and why."""

    def of(self, key: JobKey) -> dict[str, str]:
        """Pod → why, for those that are not to be tried now."""
        now = self.clock()
        self._known = {one: kept for one, kept in self._known.items() if kept[0] > now}
        return {pod: why for (job, pod), (_, why) in self._known.items() if job == key}

    def remember(self, key: JobKey, refused: Mapping[str, str]) -> None:
        """Pod → why, for those that were tried just now."""
        until = self.clock() + RETRY_S
        self._known |= {(key, pod): (until, why) for pod, why in refused.items()}


@dataclass(frozen=True, slots=True)
class Applied:
    """What became of a plan's limits; a client that is in neither has its limit in force."""

    failures: Mapping[str, str] = field(default_factory=dict)
    """Client → why its limit is not in force."""
    refusals: Mapping[str, str] = field(default_factory=dict)
    """Client → why it has to keep to its limit itself; its pod's limit is not lower."""


@dataclass(frozen=True, slots=True)
class Resizer:
    """Applies limits; made by `app`."""

    kube: Kube
    metrics: Metrics
    wait_s: float = WAIT_S
    """How long to wait for the limits to be in force, once all are asked for."""
    whole_s: float = WHOLE_S
    """How long a plan's limits may take in all: listing, patching and waiting."""
    refusals: Refusals = field(default_factory=Refusals)
    """What was refused before."""


@dataclass(slots=True)
class _Resize:
    """The limits of one plan on their way."""

    wanted: Mapping[str, int]
    """Pod → millicores."""
    waiting: set[str] = field(default_factory=set)
    """Pods whose limit is not in force yet."""
    patched_at: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    """Pod → why not."""
    labels: dict[str, str] = field(default_factory=dict)
    """Pod → the reason as a metric's label."""
    refused: dict[str, str] = field(default_factory=dict)
    """Pod → why it cannot be resized."""
    limits: dict[str, int | None] = field(default_factory=dict)
    """Pod → millicores in force when the round was planned; None: no limit."""

    def fail(self, pod: str, label: str, *, reason: str) -> None:
        self.reasons[pod], self.labels[pod] = reason, label

    def refuse(self, pod: str, label: str, *, reason: str) -> None:
        self.refused[pod], self.labels[pod] = reason, label


@dataclass(frozen=True, slots=True)
class _Limits:
    """A pod's CPU limit in millicores; None: it has none."""

    name: str
    is_of_set: bool
    asked: int | None
    in_force: int | None

    def is_done(self, milli: int) -> bool:
        return self.asked == self.in_force == milli


async def actuate(
    key: JobKey, limits: Mapping[str, int], *, resizer: Resizer, until: float | None = None
) -> Applied:
    """Apply limits (client → millicores); tells which are not in force, and whose devices must
    keep to them.

    Args:
        key: the job.
        limits: what is to be in force.
        resizer: see there.
        until: when it must have ended, in seconds of the loop's clock; None: after
            `resizer.whole_s`.

    Raises:
        KubeError: the job's pods could not be listed.
    """
    clients = {names.client_pod(key.name, client): client for client in limits}
    resize = _Resize({pod: limits[client] for pod, client in clients.items()})
    selector = names.role_selector(key.name, names.Role.DEVICE)
    until = _now_s() + resizer.whole_s if until is None else until
    listing = await _list(key, selector, kube=resizer.kube, until=until)
    known = resizer.refusals.of(key)
    found = {pod.name: pod for pod in listing.items if pod.is_of_set}
    _compare(resize, found, refused_before=known)
    if resize.waiting:
        await _patch_all(key, resize, resizer=resizer, until=until)
    if resize.waiting:  # not all were refused
        await _wait(
            key,
            resize,
            selector=selector,
            version=listing.resource_version,
            resizer=resizer,
            until=until,
        )
    for label in resize.labels.values():
        resizer.metrics.resize_failures.labels(label).inc()
    resizer.refusals.remember(key, resize.refused)
    refusals, too_low = _by_room(resize, known | resize.refused)
    return Applied(
        failures={clients[pod]: why for pod, why in (resize.reasons | too_low).items()},
        refusals={clients[pod]: why for pod, why in refusals.items()},
    )


def _compare(
    resize: _Resize, found: Mapping[str, _Limits], *, refused_before: Mapping[str, str]
) -> None:
    """Sort out which pods need a new limit, and can be given one."""
    for pod, milli in resize.wanted.items():
        if pod not in found:
            resize.fail(pod, "PodNotFound", reason="pod not found")
        elif not found[pod].is_done(milli):
            resize.limits[pod] = found[pod].in_force
            if pod not in refused_before:
                resize.waiting.add(pod)


def _by_room(resize: _Resize, refused: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """The refusals of pods whose limit leaves room for what is asked, and those of the others."""
    refusals, too_low = {}, {}
    for pod, milli in resize.wanted.items():
        if pod in resize.limits and pod in refused:
            limit = resize.limits[pod]
            if limit is None or limit >= milli:
                refusals[pod] = refused[pod]
            else:
                too_low[pod] = f"{refused[pod]}; its limit stays {limit}m"
    return refusals, too_low


def _container(entries: Any) -> Mapping[str, Any]:
    named = (entry for entry in entries or [] if entry["name"] == names.WORKER_CONTAINER)
    return next(named, {})


def _limits(pod: Manifest) -> _Limits:
    """What of a pod is read here, and no more."""
    asked = _limit(_container(pod["spec"]["containers"]))
    in_force = _limit(_container(pod.get("status", {}).get("containerStatuses")))
    return _Limits(pod["metadata"]["name"], is_of_its_set(pod), asked, in_force)


def _limit(container: Mapping[str, Any]) -> int | None:
    cpu = ((container.get("resources") or {}).get("limits") or {}).get("cpu")
    return None if cpu is None else round(parse_quantity(str(cpu)) * 1000)


def _now_s() -> float:
    """Seconds of the loop's clock."""
    return asyncio.get_running_loop().time()


async def _list(key: JobKey, selector: str, *, kube: Kube, until: float) -> Listing[_Limits]:
    try:
        async with asyncio.timeout_at(until):
            return await kube.list(POD, key.namespace, labels=selector, kept=_limits)
    except TimeoutError as error:
        raise Unavailable("the job's pods were not listed in time") from error


async def _patch_all(key: JobKey, resize: _Resize, *, resizer: Resizer, until: float) -> None:
    """Ask for all limits; what is not answered in time fails, and is not sent any more."""
    slots = asyncio.Semaphore(CONCURRENT_PATCHES)
    unanswered = set(resize.waiting)

    async def patch(pod: str) -> None:
        async with slots:
            await _patch(key, pod, resize=resize, kube=resizer.kube)
        unanswered.discard(pod)

    try:
        async with asyncio.timeout_at(until):
            await asyncio.gather(*map(patch, sorted(resize.waiting)))
    except TimeoutError:
        resize.waiting -= unanswered
        for pod in unanswered:
            resize.fail(pod, "TimedOut", reason=f"resize not answered within {resizer.whole_s:g} s")


async def _patch(key: JobKey, pod: str, *, resize: _Resize, kube: Kube) -> None:
    cpu = f"{resize.wanted[pod]}m"
    resize.patched_at[pod] = time.monotonic()
    try:
        await kube.resize(key.namespace, pod, container=names.WORKER_CONTAINER, cpu=cpu)
    except NotServed:
        resize.waiting.discard(pod)
        resize.refuse(pod, "NotServed", reason="this Kubernetes does not serve pods/resize")
    except NotFound:
        resize.waiting.discard(pod)
        resize.fail(pod, "PodNotFound", reason="pod not found")
    except Refused as error:
        resize.waiting.discard(pod)
        resize.refuse(pod, "Refused", reason=f"resize refused: {error}")
    except KubeError as error:
        resize.waiting.discard(pod)
        resize.fail(pod, type(error).__name__, reason=f"resize failed: {error}")


async def _wait(
    key: JobKey,
    resize: _Resize,
    *,
    selector: str,
    version: str,
    resizer: Resizer,
    until: float,
) -> None:
    """Follow the pods' status until all limits are in force, or the time is over."""
    last: dict[str, tuple[str, str]] = {}
    problem = None
    try:
        async with asyncio.timeout_at(min(until, _now_s() + resizer.wait_s)):
            problem = await _follow(
                key, resize, selector=selector, version=version, last=last, on=resizer
            )
    except TimeoutError:
        problem = None
    for pod in resize.waiting:
        label, reason = last.get(pod, _NOT_IN_TIME)
        resize.fail(
            pod, label, reason=problem or reason or f"not in force after {resizer.wait_s:g} s"
        )


async def _follow(
    key: JobKey,
    resize: _Resize,
    *,
    selector: str,
    version: str,
    last: dict[str, tuple[str, str]],
    on: Resizer,
) -> str | None:
    """Watch until nothing is waited for; returns why the watch broke, if it did."""
    watch = on.kube.watch(
        POD, key.namespace, labels=selector, resource_version=version, timeout_s=on.wait_s
    )
    try:
        async for event in watch:
            pod = event["object"]["metadata"]["name"]
            if pod in resize.waiting:
                last[pod] = _pending(event["object"])
                _note(pod, event, resize=resize, metrics=on.metrics)
            del event  # while the next is waited for
            if not resize.waiting:
                return None
    except KubeError as error:
        return f"its pods could not be watched: {error}"
    finally:
        await watch.aclose()
    return None


def _note(pod: str, event: Manifest, *, resize: _Resize, metrics: Metrics) -> None:
    milli = resize.wanted[pod]
    if event["type"] == "DELETED":
        resize.waiting.discard(pod)
        resize.fail(pod, "PodNotFound", reason="pod was deleted")
    elif _limits(event["object"]).is_done(milli):
        resize.waiting.discard(pod)
        metrics.resize_seconds.observe(time.monotonic() - resize.patched_at[pod])
    elif _pending(event["object"])[0] == "Infeasible":
        resize.waiting.discard(pod)
        label, reason = _pending(event["object"])
        resize.refuse(pod, label, reason=reason)


def _pending(pod: Manifest) -> tuple[str, str]:
    """Label and reason of a limit that was accepted but that the kubelet holds back."""
    status = pod.get("status", {})
    for kind in ("PodResizePending", "PodResizeInProgress"):
        found = condition(status, kind)
        if found.get("status") == "True" and _is_current(found, pod):
            word = found.get("reason") or kind
            return word, ": ".join(filter(None, (word, found.get("message"))))
    return _NOT_IN_TIME


def _is_current(found: Mapping[str, Any], pod: Manifest) -> bool:
    """Whether a condition is about the pod as it is now, not about the resize before."""
    generation = pod["metadata"].get("generation")
    return bool(found.get("observedGeneration", generation) == generation)
