"""What the chart's Prometheus says of rules and alerts, asked through the apiserver."""

import json
import time
from contextlib import suppress

from tests.cluster import api
from tests.cluster.errors import ClusterError
from tests.e2e.running import Json
from tests.support.patience import PATIENCE_S

SOON = (
    "--set", "prometheus.evaluationInterval=2s",
    "--set", "alerts.rules.LockstepOperatorDown.for=1s",
)  # fmt: skip
"""Options of the chart, for tests that wait for alerts."""


def all_evaluated(namespace: str) -> list[Json]:
    """All rules, with their state, once each was evaluated; a group is at its own time."""
    until = time.monotonic() + PATIENCE_S
    while True:
        groups = _asked(namespace, "rules")["groups"]
        found: list[Json] = [rule for group in groups for rule in group["rules"]]
        if found and all(rule["health"] != "unknown" for rule in found):
            return found
        assert time.monotonic() < until, f"not evaluated yet: {found}"
        time.sleep(0.5)


def firing(namespace: str, alert: str, /, **labels: str) -> Json:
    """Waits until an alert with these labels fires; what it says. There is nothing to watch."""
    until = time.monotonic() + PATIENCE_S
    while True:
        found = _known(namespace)
        for one in found:
            if one["state"] == "firing" and _is(one, alert, labels):
                return one
        assert time.monotonic() < until, f"{alert} {labels} does not fire, but {found}"
        time.sleep(0.5)  # until the next evaluation


def ended(namespace: str, alert: str, /, **labels: str) -> None:
    """Waits until no alert with these labels is pending or firing."""
    until = time.monotonic() + PATIENCE_S
    while any(_is(one, alert, labels) for one in _known(namespace)):
        assert time.monotonic() < until, f"{alert} {labels} does not end"
        time.sleep(0.5)


def _is(one: Json, alert: str, labels: dict[str, str]) -> bool:
    told: dict[str, str] = one["labels"]
    return told.items() >= {"alertname": alert, **labels}.items()


def _known(namespace: str) -> list[Json]:
    with suppress(ClusterError):  # it is still starting
        found: list[Json] = _asked(namespace, "alerts")["alerts"]
        return found
    return []


def _asked(namespace: str, what: str) -> Json:
    service = f"/api/v1/namespaces/{namespace}/services/lockstep-prometheus:9090/proxy"
    found: Json = json.loads(api.kubectl("get", "--raw", f"{service}/api/v1/{what}"))["data"]
    return found
