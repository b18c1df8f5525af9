"""Images on disk, as small as a test needs them."""

import hashlib
import json
from pathlib import Path
from typing import Any

from tests.cluster.oci import blob_path

NAME = "lockstep.local/thing:1"
_MEDIA = "application/vnd.oci.image"


def _blob(folder: Path, kind: str, content: bytes) -> dict[str, Any]:
    digest = "sha256:" + hashlib.sha256(content).hexdigest()
    path = folder / blob_path(digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {"mediaType": f"{_MEDIA}.{kind}", "digest": digest, "size": len(content)}


def write_layout(folder: Path, *layers: bytes, name: str = NAME, config: bytes = b"{}") -> Path:
    """Write an image with these layers into a folder."""
    manifest = {
        "config": _blob(folder, "config.v1+json", config),
        "layers": [_blob(folder, "layer.v1.tar", layer) for layer in layers],
    }
    entry = _blob(folder, "manifest.v1+json", json.dumps(manifest).encode())
    entry["annotations"] = {"org.opencontainers.image.ref.name": name}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    return folder
