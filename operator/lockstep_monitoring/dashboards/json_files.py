"""The dashboards as files: what the chart installs, and what a person imports by hand."""

import json

from grafana_foundation_sdk.cog.encoder import JSONEncoder

from lockstep_monitoring.dashboards import ALL

FOLDER = "charts/lockstep/dashboards"


def files() -> dict[str, str]:
    """Path in the checkout → JSON of every dashboard."""
    return {
        f"{FOLDER}/{name}.json": json.dumps(
            build(), cls=JSONEncoder, indent=1, sort_keys=True, ensure_ascii=False
        )
        + "\n"
        for name, build in ALL.items()
    }
