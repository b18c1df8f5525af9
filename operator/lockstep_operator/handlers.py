"""Kopf's handler: it wakes the job's loop and does nothing else, so Kopf writes nothing anywhere.

`app` registers it with `build_registry`. Only `on.event`: no finalizer, no annotation, no index.
What belongs to a job is followed by `cluster_state`.
"""

from collections.abc import Awaitable, Callable, Iterator
from itertools import chain, repeat
from typing import Any

import kopf

from lockstep_api import names
from lockstep_operator.core.model import JobKey
from lockstep_operator.kube_lists import PAGE_OF_JOBS
from lockstep_operator.runtime import Runtime

Login = Callable[[], Awaitable[kopf.ConnectionInfo]]


class _Patience:
    """Seconds between Kopf's tries of one call: it never gives up.

    When it does, on the last of them, an apiserver that answers 5xx for a minute (its etcd is away,
    a load balancer has nobody behind it) ends the process. Every call begins from the first.
    """

    def __iter__(self) -> Iterator[float]:
        return chain((1, 2, 5, 10), repeat(30))


def build_registry(login: Login) -> kopf.OperatorRegistry:
    """The handler of the operator."""
    registry = kopf.OperatorRegistry()
    kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, registry=registry)(job_seen)

    async def log_in(**_: Any) -> kopf.ConnectionInfo:
        return await login()

    kopf.on.login(registry=registry)(log_in)
    return registry


def operator_settings() -> kopf.OperatorSettings:
    """Kopf's settings: it posts no events, lets no watch fall silent, and waits for Kubernetes."""
    settings = kopf.OperatorSettings()
    settings.posting.enabled = False
    settings.watching.server_timeout = 600
    settings.watching.client_timeout = 660
    settings.watching.chunk_size = PAGE_OF_JOBS
    settings.queueing.error_delays = (1, 2, 5, 10, 30)
    settings.networking.error_backoffs = _Patience()
    return settings


async def job_seen(
    namespace: str | None, name: str | None, *, type: str | None, memo: Runtime, **_: Any
) -> None:
    """A job was listed, added, changed or deleted."""
    memo.seen(JobKey(str(namespace), str(name)), gone=type == "DELETED")
