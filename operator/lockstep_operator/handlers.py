"""Kopf's handlers: they wake the job's loop and do nothing else, so Kopf writes nothing anywhere.

`registry` is called by `app`. Only `on.event` handlers: no finalizer, no annotation, no index.
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import kopf

from lockstep_api import names
from lockstep_operator.core.model import JobKey
from lockstep_operator.runtime import Runtime

Login = Callable[[], Awaitable[kopf.ConnectionInfo]]


def build_registry(login: Login) -> kopf.OperatorRegistry:
    """The handlers of the operator."""
    registry = kopf.OperatorRegistry()
    kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, registry=registry)(job_seen)
    kopf.on.event("v1", "pods", labels={names.JOB_LABEL: kopf.PRESENT}, registry=registry)(
        pod_changed
    )

    async def log_in(**_: Any) -> kopf.ConnectionInfo:
        return await login()

    kopf.on.login(registry=registry)(log_in)
    return registry


def operator_settings() -> kopf.OperatorSettings:
    """Kopf's settings: it posts no events, and watches only pods of jobs."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.watching.server_timeout = 600
    settings.watching.client_timeout = 660
    settings.watching.chunk_size = 500
    settings.watching.label_selectors["pods"] = names.JOB_LABEL
    settings.queueing.error_delays = (1, 2, 5, 10, 30)
    return settings


async def job_seen(
    namespace: str | None, name: str | None, type: str | None, memo: Runtime, **_: Any
) -> None:
    """A job was listed, added, changed or deleted."""
    memo.seen(JobKey(str(namespace), str(name)), gone=type == "DELETED")


async def pod_changed(
    namespace: str | None, type: str | None, body: Mapping[str, Any], memo: Runtime, **_: Any
) -> None:
    """A pod of a job changed, or is gone and left room."""
    labels = body["metadata"].get("labels", {})
    memo.wake_labelled(str(namespace), labels[names.JOB_LABEL])
    if type == "DELETED":
        memo.room_freed()
