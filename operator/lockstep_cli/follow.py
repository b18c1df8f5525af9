"""Objects of the cluster as they change: a list, then a watch of what comes after it.

`watch`, `logs` and `events` live from it. Invariant: a watch that ends, breaks or is too old (410)
is mended without losing a change: by going on from its last resource version, or by a new list that
replaces all.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from lockstep_cli.cluster import Cluster, Json, Request, Resource, named, path_of, selected
from lockstep_cli.errors import CliError, Gone, Unreachable

Key = tuple[str, str]
"""Namespace and name."""
WATCH_S = 300
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 15.0


@dataclass(frozen=True, slots=True)
class Selection:
    """Which objects."""

    resource: Resource
    namespace: str | None = None
    labels: str = ""
    fields: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """All objects of a selection after something happened."""

    objects: Mapping[Key, Json]
    """A mapping of its own: another thread may look at it."""
    changed: Json | None = None
    """What changed, or is gone; None after a new list."""
    trouble: str = ""
    """Why nothing is heard of the cluster now."""


@dataclass(slots=True)
class _Seen:
    objects: dict[Key, Json] = field(default_factory=dict)
    version: str = ""
    """Empty: a new list is needed."""


def follow(cluster: Cluster, of: Selection) -> Iterator[Change]:
    """Every change, for ever.

    Raises:
        CliError: at the first list, or for a reason that waiting does not mend.
    """
    seen, listed, pause_s = _Seen(), False, _FIRST_PAUSE_S
    while True:
        try:
            if not seen.version:
                _list(cluster, of, seen=seen)
                listed, pause_s = True, _FIRST_PAUSE_S
                yield Change(dict(seen.objects))
            heard = False
            for changed in _watch(cluster, of, seen=seen):
                heard, pause_s = True, _FIRST_PAUSE_S
                yield Change(dict(seen.objects), changed)
            if not heard:  # something may be between us and the apiserver that ends watches at once
                cluster.pause(_FIRST_PAUSE_S)
        except Gone:
            seen.version = ""
        except Unreachable as error:
            if not listed:
                raise
            seen.version = ""
            yield Change(dict(seen.objects), trouble=str(error))
            cluster.pause(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


def _list(cluster: Cluster, of: Selection, *, seen: _Seen) -> None:
    listing = cluster.list(of.resource, of.namespace, labels=of.labels, fields=of.fields)
    seen.objects.clear()
    seen.objects |= {key_of(item): item for item in listing.items}
    seen.version = listing.version


def _watch(cluster: Cluster, of: Selection, *, seen: _Seen) -> Iterator[Json]:
    query = {
        "watch": "true",
        "allowWatchBookmarks": "true",
        "resourceVersion": seen.version,
        "timeoutSeconds": WATCH_S,
    }
    path = path_of(of.resource, of.namespace)
    request = Request(
        "GET",
        path,
        query | selected(of.labels, of.fields),
        resource=of.resource,
        namespace=of.namespace,
    )
    for line in cluster.lines(request):
        event = json.loads(line)
        item = event["object"]
        if event["type"] == "ERROR":
            raise _error(item)
        seen.version = item["metadata"]["resourceVersion"]
        if event["type"] == "BOOKMARK":
            continue
        item = named(item, of.resource)
        if event["type"] == "DELETED":
            seen.objects.pop(key_of(item), None)
        else:
            seen.objects[key_of(item)] = item
        yield item


def _error(status: Json) -> CliError:
    message = str(status.get("message", "the watch failed"))
    return Gone(message) if status.get("code") == 410 else Unreachable(message)


def key_of(item: Json) -> Key:
    """What names an object within its kind."""
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]
