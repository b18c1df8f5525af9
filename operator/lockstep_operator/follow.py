"""Follows the objects of one kind: lists them, then watches; `cluster_state` runs one a source.

Level-correct: whatever breaks a watch, among it that its version is too old (410), is mended by a
new list that replaces all, so that what was deleted meanwhile does not stay.
"""

import logging
import random
from asyncio import sleep
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from lockstep_operator.core.backoff import backoff_s
from lockstep_operator.core.model import Manifest
from lockstep_operator.errors import KubeError
from lockstep_operator.kept import Followed
from lockstep_operator.kube import Kube

WATCH_S = 300.0
"""How long one watch lasts; the next goes on where it ended."""
PAUSE_S = 1.0
"""Between a watch that brought nothing and the next."""

logger = logging.getLogger(__name__)


async def follow(
    kube: Kube, kept: Followed, *, pause: Callable[[float], Awaitable[None]] = sleep
) -> None:
    """Keep `kept` as the cluster is, until cancelled."""
    failures = 0
    while True:
        try:
            await _list(kube, kept)
            while True:
                heard = False
                async with aclosing(_watch(kube, kept)) as events:
                    async for event in events:
                        _take(kept, event)
                        heard, failures = True, 0
                        del event  # while the next is waited for
                if not heard:  # else at once: the apiserver soon forgets what comes meanwhile
                    await pause(PAUSE_S)
        except KubeError as error:
            failures += 1
            logger.warning("%s: listed anew, for %s", kept.source.kind[1], error)
            await pause(backoff_s(failures, random.random()))


async def _list(kube: Kube, kept: Followed) -> None:
    source = kept.source
    taking, version = kept.anew(), 0
    pages = kube.pages(
        source.kind,
        source.namespace,
        labels=source.labels,
        fields=source.fields,
        metadata_only=source.metadata_only,
    )
    async with aclosing(pages):
        async for page in pages:
            for item in page.items:
                taking.add(item)
            version = int(page.resource_version)
    taking.end(version)


def _watch(kube: Kube, kept: Followed) -> AsyncGenerator[Manifest, None]:
    """A watch from where the last one, or the list, ended."""
    source = kept.source
    return kube.watch(
        source.kind,
        source.namespace,
        labels=source.labels,
        fields=source.fields,
        resource_version=str(kept.version),
        timeout_s=WATCH_S,
        bookmarks=True,
        metadata_only=source.metadata_only,
    )


def _take(kept: Followed, event: Manifest) -> None:
    match event["type"]:
        case "BOOKMARK":
            kept.passed(event["object"])
        case "DELETED":
            kept.drop(event["object"])
        case _:
            kept.put(event["object"])
