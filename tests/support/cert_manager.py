"""The CRD of cert-manager's Certificate, from its Go module: what its clusters take and refuse."""

import json
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import golang
from tests.cluster.errors import ClusterError

MODULE = "github.com/cert-manager/cert-manager"
VERSION = "v1.18.2"
SUM = "h1:H2P75ycGcTMauV3gvpkDqLdS3RSXonWF2S49QGA1PZE="
"""What the module proxy must hand out."""
NAME = "certificates.cert-manager.io"


def crd() -> dict[str, Any]:
    """Fetched once into Go's module cache.

    Raises:
        ClusterError: it cannot be fetched, or is another.
    """
    said = golang.run_go(golang.find(), "mod", "download", "-json", f"{MODULE}@{VERSION}")
    told = json.loads(said)
    if told["Sum"] != SUM:
        raise ClusterError(f"{MODULE} {VERSION} is {told['Sum']}, not {SUM}: do not use it")
    file = Path(told["Dir"]) / "deploy" / "crds" / "crd-certificates.yaml"
    found: dict[str, Any] = yaml.safe_load(file.read_text())
    del found["metadata"]["labels"]  # a template of its chart
    return found
