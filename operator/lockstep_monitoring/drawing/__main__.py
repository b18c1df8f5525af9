"""`make dashboard-pictures`: every dashboard as PNG, of a job that runs or ran.

    python -m lockstep_monitoring.drawing --namespace lockstep-system --job team/digits --to build

Prometheus is the chart's in --namespace, through kubectl (KUBECONFIG), or the one at --prometheus.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

from lockstep_monitoring.asking import (
    Ask,
    Span,
    Unanswered,
    at_address,
    filled,
    label_values,
    through_kubectl,
)
from lockstep_monitoring.dashboards import json_files
from lockstep_monitoring.drawing import board, page

EVERYTHING = ".*"


def main(arguments: list[str]) -> None:
    """Draws, and says where."""
    given = _parsed(arguments)
    reached = (
        nullcontext(at_address(given.prometheus))
        if given.prometheus
        else through_kubectl(given.namespace, kubectl=given.kubectl.split())
    )
    try:
        with reached as ask:
            _draw(ask, given)
    except Unanswered as error:
        raise SystemExit(f"dashboard-pictures: {error}") from None


def _parsed(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lockstep_monitoring.drawing")
    parser.add_argument("--namespace", default="lockstep-system", help="where the chart is")
    parser.add_argument("--prometheus", default="", help="address of another Prometheus")
    parser.add_argument("--job", default="", help="NAMESPACE/NAME; the first that is found")
    parser.add_argument("--minutes", type=float, default=15.0, help="how far back")
    parser.add_argument("--to", type=Path, default=Path("build/dashboards"), help="folder")
    parser.add_argument("--only", default="", help="one dashboard: job, fleet, …")
    parser.add_argument("--scale", type=float, default=1.5, help="pixels for each of a panel's")
    parser.add_argument("--kubectl", default=os.environ.get("KUBECTL", "kubectl"))
    return parser.parse_args(arguments)


def _draw(ask: Ask, given: argparse.Namespace) -> None:
    now = time.time()
    span = Span(now - 60 * given.minutes, now, 1.0)
    given.to.mkdir(parents=True, exist_ok=True)
    for path, text in json_files.files().items():
        name = Path(path).stem
        if given.only in ("", name):
            read = board.read(json.loads(text))
            source = page.Source(ask, span, chosen(ask, read, job=given.job))
            to = given.to / f"{name}.png"
            to.write_bytes(page.drawn(read, source, scale=given.scale))
            sys.stdout.write(f"{to}\n")


def chosen(ask: Ask, read: board.Board, *, job: str) -> Mapping[str, str]:
    """A value for each variable: those of `job` (namespace/name), else the first, or everything."""
    namespace, _, name = job.partition("/")
    values = {"tier": "device|edge|cloud"} | {
        key: value for key, value in {"namespace": namespace, "job": name}.items() if value
    }
    for variable, query in read.variables.items():
        if variable in ("device", "release") or (
            variable == "namespace" and "job" not in read.variables
        ):
            values[variable] = EVERYTHING
        elif variable not in values:
            offered = label_values(ask, filled(query, values))
            values[variable] = offered[0] if offered else EVERYTHING
    return values


if __name__ == "__main__":
    main(sys.argv[1:])
