"""The file of what the page of a job's pod may tell, as relabelings of the Prometheus operator.

The chart hands it to its own Prometheus, and to another one by a PodMonitor. A pod tells the series
of its own tier and no others; what it says of the labels that discovery gives is dropped, so that
it speaks for nobody but itself. Invariant: of labels that are not of the catalogue nothing is kept,
and of those whose values are known no others, so that a page of a device or an edge has no more
series than those of the catalogue, whatever it holds.
"""

import re

import yaml

from lockstep_api import series
from lockstep_api.series import Kind, Owner, Series, labels

PATH = "charts/lockstep/files/told.yaml"
_HEADER = "# Made by `make monitoring` from operator/lockstep_monitoring; edits here are lost.\n"
_OF_JOBS = (Owner.DEVICE, Owner.EDGE, Owner.CLOUD)
_BOUND = "le"
_GIVEN = {Owner.DEVICE: labels.CLIENT, Owner.EDGE: labels.EDGE}
"""What discovery gives the pods of a tier, beside what all have."""
_OF_ALL = (labels.NAMESPACE, labels.POD, labels.JOB, labels.TIER, "instance")
_ANY = "[^;]*"


def text() -> str:
    """What stands in the file."""
    return _HEADER + yaml.safe_dump(relabelings(), sort_keys=False, width=100)


def relabelings() -> list[dict[str, object]]:
    """In their order."""
    asked = _asked()
    told: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for owner in _OF_JOBS:
        for one in series.of(owner):
            for name in one.names:
                values = tuple(_values(one, label, name=name) for label in asked)
                told.setdefault((owner, values), []).append(name)
    each = (
        f"{owner};({'|'.join(names)});{';'.join(values)}" for (owner, values), names in told.items()
    )
    return [
        {"regex": "|".join(("__name__", *_OF_ALL, *asked)), "action": "labelkeep"},
        {
            "sourceLabels": [labels.TIER, "__name__", *asked],
            "regex": "|".join(each),
            "action": "keep",
        },
    ]


def _asked() -> list[str]:
    """The labels that not all series have."""
    found = {label for owner in _OF_JOBS for one in series.of(owner) for label in one.labels}
    return sorted(found.union(_GIVEN.values(), {_BOUND}).difference(_OF_ALL))


def _values(one: Series, label: str, *, name: str) -> str:
    """What a series may have there, as a regular expression; empty: it has no such label."""
    if label == _BOUND:
        return _bounds(one) if one.kind is Kind.HISTOGRAM and name == one.bucket else ""
    if label == _GIVEN.get(one.owner):
        return _ANY
    if label not in one.labels:
        return ""
    if label == one.labels[-1] and one.values:
        return f"({'|'.join(map(re.escape, one.values))})"
    return _ANY


def _bounds(one: Series) -> str:
    """With and without a fraction of nothing: Prometheus writes them so from version 3 on."""
    found = (re.escape(f"{bound:g}") for bound in one.buckets)
    return rf"(({'|'.join(found)})(\.0)?|\+Inf)"
