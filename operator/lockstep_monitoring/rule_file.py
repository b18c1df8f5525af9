"""The file of rules as Prometheus reads it: recordings and alerts in their groups."""

from typing import Any

import yaml

from lockstep_monitoring import rules

PATH = "charts/lockstep/files/rules.yaml"
_HEADER = "# Made by `make monitoring` from operator/lockstep_monitoring; edits here are lost.\n"


def text() -> str:
    """What stands in the file."""
    return _HEADER + yaml.safe_dump(
        {"groups": groups()}, sort_keys=False, width=100, allow_unicode=True
    )


def groups() -> list[dict[str, Any]]:
    return [
        {"name": name, "rules": [{"record": one.name, "expr": one.expression} for one in found]}
        for name, found in rules.GROUPS.items()
    ]
