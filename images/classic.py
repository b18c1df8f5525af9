"""Owns the archive that `docker save` wrote before Docker 25: read, and made an OCI layout.

Called by `layout.adopt`, on what an engine exported. Invariant: layers are moved, never changed, so
that what was uncompressed stays so and keeps its digest on every engine.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from images.command import ImageError

Json = dict[str, Any]
_OCI = "application/vnd.oci.image"
_GZIP = b"\x1f\x8b"


def convert(folder: Path) -> None:
    """Give an unpacked archive of one image an OCI index and blobs; one without a list is left."""
    try:
        images = json.loads((folder / "manifest.json").read_text())
    except (FileNotFoundError, ValueError):
        return
    if len(images) != 1:
        raise ImageError(f"the engine exported {len(images)} images instead of one")
    # A layer that occurs twice is a link to its first place: all are read before any is moved.
    layers = [_layer(folder / name) for name in images[0]["Layers"]]
    config = {"mediaType": f"{_OCI}.config.v1+json", **_sized(folder / images[0]["Config"])}
    for descriptor, path in (*layers, (config, folder / images[0]["Config"])):
        _keep(folder, descriptor, path)
    _write_index(folder, config, [descriptor for descriptor, _ in layers])


def _layer(path: Path) -> tuple[Json, Path]:
    real = path.resolve()
    with real.open("rb") as file:
        packed = file.read(len(_GZIP)) == _GZIP
    kind = f"{_OCI}.layer.v1.tar{'+gzip' if packed else ''}"
    return {"mediaType": kind, **_sized(real)}, real


def _sized(path: Path) -> Json:
    with path.open("rb") as file:
        value = hashlib.file_digest(file, "sha256").hexdigest()
    return {"digest": f"sha256:{value}", "size": path.stat().st_size}


def _keep(folder: Path, descriptor: Json, path: Path) -> None:
    target = folder / "blobs" / "sha256" / descriptor["digest"].removeprefix("sha256:")
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        os.replace(path, target)


def _write_index(folder: Path, config: Json, layers: list[Json]) -> None:
    kind = f"{_OCI}.manifest.v1+json"
    manifest = {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers}
    written = folder / "image.json"
    written.write_text(json.dumps(manifest))
    descriptor = {"mediaType": kind, **_sized(written)}
    _keep(folder, descriptor, written)
    index = {"schemaVersion": 2, "manifests": [descriptor]}
    (folder / "index.json").write_text(json.dumps(index))
