"""Owns the OCI layout folders that the builder leaves: one image each, named, without stale blobs.

Called by the engines (to add what they exported) and `cli` (to know whether an image is current).
Invariant: index.json is replaced last and at once, so that it never names a blob that is missing.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from images import classic
from images.command import ImageError

Json = dict[str, Any]
INPUTS = "dev.lockstep.inputs"
"""Annotation: hash of what the image was built from."""
_CONTAINERD_NAME = "io.containerd.image.name"
_REF_NAME = "org.opencontainers.image.ref.name"


def read_index(folder: Path) -> Json | None:
    try:
        return dict(json.loads((folder / "index.json").read_text()))
    except (FileNotFoundError, ValueError):
        return None


def blob(folder: Path, digest: str) -> Path:
    algorithm, _, value = digest.partition(":")
    return folder / "blobs" / algorithm / value


def _descriptors(folder: Path, descriptor: Json) -> Iterator[Json]:
    """The descriptor and all that it leads to: manifest, config, layers."""
    yield descriptor
    if "manifest" in descriptor["mediaType"] or "image.index" in descriptor["mediaType"]:
        document = json.loads(blob(folder, descriptor["digest"]).read_text())
        config = [document["config"]] if "config" in document else []
        for child in (*config, *document.get("layers", ()), *document.get("manifests", ())):
            yield from _descriptors(folder, child)


def layers(folder: Path, descriptor: Json) -> list[Path]:
    """The files of an image's layers, the lowest first."""
    manifest = json.loads(blob(folder, descriptor["digest"]).read_text())
    return [blob(folder, layer["digest"]) for layer in manifest["layers"]]


def contents(folder: Path) -> dict[str, int]:
    """Digest and size of every blob that the layout's index leads to."""
    index = read_index(folder) or {"manifests": []}
    found = (each for top in index["manifests"] for each in _descriptors(folder, top))
    return {each["digest"]: int(each["size"]) for each in found}


def built_from(folder: Path) -> str | None:
    """The inputs' hash of the image in this layout; None when it is absent or incomplete."""
    index = read_index(folder)
    if index is None or len(index["manifests"]) != 1:
        return None
    try:
        sizes = {digest: blob(folder, digest).stat().st_size for digest in contents(folder)}
    except FileNotFoundError:
        return None
    if sizes != contents(folder):
        return None
    value = index["manifests"][0].get("annotations", {}).get(INPUTS)
    return None if value is None else str(value)


def publish(folder: Path, descriptor: Json, *, reference: str, inputs: str) -> None:
    """Make this image the layout's only one, under its full name, and drop all other blobs."""
    notes = {_CONTAINERD_NAME: reference, _REF_NAME: reference, INPUTS: inputs}
    index = {"schemaVersion": 2, "manifests": [{**descriptor, "annotations": notes}]}
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    written = folder / "index.json.new"
    written.write_text(json.dumps(index))
    os.replace(written, folder / "index.json")
    prune(folder)


def put(folder: Path, document: Json) -> Json:
    """Adds a document; what a descriptor says of its content."""
    content = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    path = blob(folder, digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {"digest": digest, "size": len(content)}


def prune(folder: Path) -> list[str]:
    """Remove the blobs that no image of the layout needs; returns their digests."""
    kept = contents(folder)
    stale: list[str] = []
    for path in sorted((folder / "blobs").glob("*/*")):
        digest = f"{path.parent.name}:{path.name}"
        if digest not in kept:
            path.unlink()
            stale.append(digest)
    return stale


def adopt(exported: Path, folder: Path) -> Json:
    """Move the blobs that an engine exported into `folder`; returns its image's descriptor.

    The engine wrote an OCI layout, or the older archive that Docker before 25 writes.
    """
    if read_index(exported) is None:
        classic.convert(exported)
    index = read_index(exported)
    if index is None:
        raise ImageError("the engine exported neither an OCI layout nor an archive of an image")
    descriptor = _one_image(exported, index)
    for path in (exported / "blobs").glob("*/*"):
        target = folder / "blobs" / path.parent.name / path.name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)
    return descriptor


def _one_image(folder: Path, index: Json) -> Json:
    """The index's image: below an index of platforms it is the one whose manifest is here."""
    descriptor: Json = index["manifests"][0]
    if not descriptor["mediaType"].endswith((".index.v1+json", ".manifest.list.v2+json")):
        return dict(descriptor)
    platforms = json.loads(blob(folder, descriptor["digest"]).read_text())["manifests"]
    for each in platforms:
        is_image = each.get("platform", {}).get("os") == "linux"  # a provenance is of no system
        if is_image and blob(folder, each["digest"]).exists():
            return {key: each[key] for key in ("mediaType", "digest", "size")}
    raise ImageError("the engine exported an index of platforms without an image for Linux")
