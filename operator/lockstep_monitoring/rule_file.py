"""The file of rules as Prometheus reads it: recordings and alerts in their groups.

The chart hands it to its own Prometheus, or as a PrometheusRule to another one; there it may change
what `alerts.rules` says, and where runbooks are.
"""

from typing import Any

import yaml

from lockstep_monitoring import alerts, rules

PATH = "charts/lockstep/files/rules.yaml"
_HEADER = "# Made by `make monitoring` from operator/lockstep_monitoring; edits here are lost.\n"

Rule = dict[str, Any]


def text() -> str:
    """What stands in the file."""
    return _HEADER + yaml.safe_dump(
        {"groups": groups()}, sort_keys=False, width=100, allow_unicode=True
    )


def groups() -> list[dict[str, Any]]:
    """Recordings first: an alert of one that is not there yet would be silent once."""
    recorded = [(name, [*map(_recorded, found)]) for name, found in rules.GROUPS.items()]
    alerting = [(name, [*map(_alerting, found)]) for name, found in alerts.GROUPS.items()]
    return [{"name": name, "rules": found} for name, found in recorded + alerting]


def _recorded(one: rules.Recording) -> Rule:
    return {"record": one.name, "expr": one.expression}


def _alerting(one: alerts.Alert) -> Rule:
    return {
        "alert": one.name,
        "expr": one.expression,
        "for": one.lasts,
        "labels": {"severity": one.severity.value},
        "annotations": {
            "summary": one.summary,
            "description": one.description,
            "runbook_url": f"{alerts.RUNBOOKS}#{one.anchor}",
        },
    }
