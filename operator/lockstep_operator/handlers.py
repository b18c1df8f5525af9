"""Kopf's handler: it wakes the job's loop and does nothing else, so Kopf writes nothing anywhere.

`lead` registers it with `build_registry`. Only `on.event`: no finalizer, no annotation, no index.
Kopf hears of jobs by `job_feed`; what belongs to a job is followed by `cluster_state`.
"""

from typing import Any, cast

import aiohttp
import kopf

from lockstep_api import names
from lockstep_operator.core.model import JobKey
from lockstep_operator.job_feed import SERVER, JobFeed, KopfSession
from lockstep_operator.runtime import Runtime

_NEVER_S = 1e9


def build_registry(feed: JobFeed) -> kopf.OperatorRegistry:
    """The handler of the operator, and where Kopf hears of jobs."""
    registry = kopf.OperatorRegistry()
    kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, registry=registry)(job_seen)

    async def log_in(**_: Any) -> kopf.AiohttpSession:
        session = cast("aiohttp.ClientSession", KopfSession(feed))
        return kopf.AiohttpSession(server=SERVER, aiohttp_session=session)

    kopf.on.login(registry=registry)(log_in)
    return registry


def operator_settings() -> kopf.OperatorSettings:
    """Kopf's settings: it posts no events, looks for no other kinds, and a feed may be silent."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.scanning.disabled = True
    settings.watching.inactivity_timeout = _NEVER_S
    settings.queueing.error_delays = (1, 2, 5, 10, 30)
    return settings


async def job_seen(
    namespace: str | None, name: str | None, *, type: str | None, memo: Runtime, **_: Any
) -> None:
    """A job was listed, added, changed or deleted."""
    memo.seen(JobKey(str(namespace), str(name)), gone=type == "DELETED")
