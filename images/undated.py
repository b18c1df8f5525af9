"""Takes out of an image what only tells when it was built: two builds of one commit are one image.

Called by `cli` with what an engine has exported. Invariant: a layer keeps every byte but the time
of one folder, in which engines mount a file after all that a Dockerfile can say; of what it was
built from only what others have, too, is told.
"""

import hashlib
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

from images import layout

_BASE, _BASE_DIGEST = "org.opencontainers.image.base.name", "org.opencontainers.image.base.digest"
_NO_TIME = "1970-01-01T00:00:00Z"
_MOUNTED = "run"
_UNCOMPRESSED = ".tar"
_BLOCK = 512
_TIME, _CHECKSUM = slice(136, 148), slice(148, 156)
"""Fields of a member's header (POSIX ustar)."""


def undated(folder: Path, descriptor: layout.Json) -> layout.Json:
    """The same image without the times at which its layers were made; its descriptor."""
    manifest = json.loads(layout.blob(folder, descriptor["digest"]).read_text())
    config = json.loads(layout.blob(folder, manifest["config"]["digest"]).read_text())
    for dated in (config, *config.get("history", ())):
        dated["created"] = _NO_TIME
        dated.pop("comment", None)  # buildah tells the images in between
    if manifest.get("annotations", {}).get(_BASE, "").startswith("localhost/"):
        manifest["annotations"].pop(_BASE_DIGEST, None)  # made here, at a time of its own
    layers, contents = manifest["layers"], config["rootfs"]["diff_ids"]
    for place, layer in enumerate(layers):
        if layer["mediaType"].endswith(_UNCOMPRESSED):
            layer["digest"] = contents[place] = _undated_layer(folder, layer["digest"])
    manifest["config"] |= layout.put(folder, config)
    return {**descriptor, **layout.put(folder, manifest)}


def _undated_layer(folder: Path, digest: str) -> str:
    """The digest of the layer without that time."""
    path = layout.blob(folder, digest)
    with tarfile.open(path) as tar:
        found = next((one for one in tar if one.name.removeprefix("./") == _MOUNTED), None)
    if found is None or not found.isdir() or found.mtime == 0:
        return digest
    written = path.with_suffix(".new")
    shutil.copyfile(path, written)
    with written.open("r+b") as file:
        file.seek(found.offset_data - _BLOCK)
        header = _without_time(file.read(_BLOCK))
        file.seek(found.offset_data - _BLOCK)
        file.write(header)
        file.seek(0)
        digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    os.replace(written, layout.blob(folder, digest))
    return digest


def _without_time(header: bytes) -> bytes:
    made: Any = bytearray(header)
    made[_TIME] = b"%011o\0" % 0
    made[_CHECKSUM] = b" " * 8
    made[_CHECKSUM] = b"%06o\0 " % sum(made)
    return bytes(made)
