"""The file of what the page of a job's pod may tell, as relabelings of the Prometheus operator.

The chart hands it to its own Prometheus, and to another one by a PodMonitor. A pod tells the series
of its own tier and no others; what it says of the labels that discovery gives is dropped, so that
it speaks for nobody but itself.
"""

import yaml

from lockstep_api import series
from lockstep_api.series import Owner, labels

PATH = "charts/lockstep/files/told.yaml"
_HEADER = "# Made by `make monitoring` from operator/lockstep_monitoring; edits here are lost.\n"
_OF_JOBS = (Owner.DEVICE, Owner.EDGE, Owner.CLOUD)


def text() -> str:
    """What stands in the file."""
    return _HEADER + yaml.safe_dump(relabelings(), sort_keys=False, width=100)


def relabelings() -> list[dict[str, object]]:
    """In their order."""
    given = "|".join((*labels.OF_PODS, "instance"))
    return [
        {
            "sourceLabels": [labels.TIER, "__name__"],
            "regex": "|".join(f"{owner};({'|'.join(_names(owner))})" for owner in _OF_JOBS),
            "action": "keep",
        },
        {"regex": f"exported_({given})", "action": "labeldrop"},
    ]


def _names(owner: Owner) -> list[str]:
    """Of the series whose owner is a tier's pod, as Prometheus has them."""
    return [name for one in series.of(owner) for name in one.names]
