"""The CRDs of the Prometheus operator, from its Go module: what its clusters take and refuse."""

import json
from pathlib import Path

from tests.cluster import golang
from tests.cluster.errors import ClusterError

MODULE = "github.com/prometheus-operator/prometheus-operator"
VERSION = "v0.85.0"
SUM = "h1:M5xLCLEoaW2IJfnuCwFzzpL+jSVQu3KGT84Pye+fW8s="
"""What the module proxy must hand out."""
KINDS = ("podmonitors", "servicemonitors", "prometheusrules")


def crds() -> list[Path]:
    """The files, fetched once into Go's module cache.

    Raises:
        ClusterError: they cannot be fetched, or are others.
    """
    said = golang.run_go(golang.find(), "mod", "download", "-json", f"{MODULE}@{VERSION}")
    told = json.loads(said)
    if told["Sum"] != SUM:
        raise ClusterError(f"{MODULE} {VERSION} is {told['Sum']}, not {SUM}: do not use it")
    folder = Path(told["Dir"]) / "example" / "prometheus-operator-crd"
    return [folder / f"monitoring.coreos.com_{kind}.yaml" for kind in KINDS]
