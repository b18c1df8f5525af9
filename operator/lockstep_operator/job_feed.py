"""What Kopf hears of jobs: a line of each, out of the one list and watch of `cluster_state`.

A user may give a job a megabyte of labels, annotations and spec, which Python makes tens of; Kopf
holds every job that it reads for seconds, and all those of a list at once. So it reads none: its
session is a `KopfSession`, in which there is one kind of objects, and of each its name, uid and
resource version. Nor can Kopf write anything, or read anything else of the cluster.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlsplit

from lockstep_api import names
from lockstep_operator.core.model import Manifest
from lockstep_operator.views import KeptJob

SERVER = "http://jobs"
"""Where Kopf believes that it asks."""
_CORE: Manifest = {"name": "namespaces", "singularName": "", "kind": "Namespace"}
_JOBS: Manifest = {"name": names.PLURAL, "singularName": "", "kind": names.KIND}
_SERVED: dict[str, Manifest] = {
    "/api": {"versions": ["v1"]},
    "/api/v1": {"resources": [_CORE | {"namespaced": False, "verbs": ["list", "watch"]}]},
    "/apis": {
        "groups": [
            {
                "name": names.GROUP,
                "versions": [{"version": names.VERSION}],
                "preferredVersion": {"version": names.VERSION},
            }
        ]
    },
    f"/apis/{names.API_VERSION}": {
        "resources": [_JOBS | {"namespaced": True, "verbs": ["list", "watch"]}]
    },
}
"""What Kopf looks for before it watches."""
_PATH = f"/apis/{names.API_VERSION}/{names.PLURAL}"


@dataclass(slots=True)
class JobFeed:
    """Changes of jobs for one reader: of each job the last one, however many there were."""

    jobs: Callable[[], Iterable[KeptJob]]
    """All that there are now."""
    _changed: dict[str, tuple[str, KeptJob]] = field(default_factory=dict)
    """By uid: what happened last, and the job."""
    _any: asyncio.Event = field(default_factory=asyncio.Event)

    def changed(self, old: KeptJob | None, new: KeptJob | None) -> None:
        """A job is new, another than before, or gone."""
        if old is not None and (new is None or new.uid != old.uid):
            self._changed[old.uid] = ("DELETED", old)
        if new is not None:
            self._changed[new.uid] = ("MODIFIED", new)
        self._any.set()

    async def events(self) -> AsyncIterator[Manifest]:
        """All jobs, then what changes, until cancelled."""
        for job in self.jobs():
            self.changed(None, job)
        while True:
            while self._changed:
                uid = next(iter(self._changed))
                kind, job = self._changed.pop(uid)
                yield {"type": kind, "object": _line(job)}
            self._any.clear()
            await self._any.wait()


class KopfSession:
    """An apiserver that has a feed's jobs and nothing else, as far as Kopf uses a session of
    aiohttp."""

    def __init__(self, feed: JobFeed) -> None:
        self.headers: dict[str, str] = {}
        self.closed = False
        self._feed = feed

    async def request(self, *, method: str, url: str, **_: Any) -> "_Answer":
        """The answer to a request of Kopf."""
        asked = urlsplit(url)
        if method == "get" and asked.path == _PATH:
            if "watch" in parse_qs(asked.query):
                return _Answer(lines=self._feed.events())
            # none yet: the watch begins with all of them
            return _Answer({"items": [], "metadata": {"resourceVersion": "0"}})
        found = _SERVED.get(asked.path) if method == "get" else None
        return _Answer({"kind": "Status", "code": 404}, 404) if found is None else _Answer(found)

    async def close(self) -> None:
        """There is no connection."""
        self.closed = True


@dataclass(slots=True)
class _Answer:
    """As far as Kopf looks at one of aiohttp."""

    body: Manifest = field(default_factory=dict)
    status: int = 200
    lines: AsyncIterator[Manifest] | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def content(self) -> "_Answer":
        return self

    async def __aenter__(self) -> "_Answer":
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Its reader reads no more: Kopf closes a watch by ending the task that reads it."""

    def raise_for_status(self) -> None:
        """Kopf has made an error of its own of a status that is one."""

    async def json(self) -> Manifest:
        return self.body

    async def iter_chunked(self, _: int) -> AsyncIterator[bytes]:
        if self.lines is not None:
            async for line in self.lines:
                yield json.dumps(line).encode() + b"\n"


def _line(job: KeptJob) -> Manifest:
    meta = {"namespace": job.key.namespace, "name": job.key.name, "uid": job.uid}
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": meta | {"resourceVersion": job.version},
    }
