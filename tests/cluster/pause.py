"""Makes the image of the pause container, the only one a cluster needs of itself.

One small program in an OCI layout folder; the same bytes every time, so nodes that have it are left
alone.
"""

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path
from typing import Any

from tests.cluster.layout import PAUSE_IMAGE, cache_folder
from tests.cluster.oci import REF_ANNOTATION, blob_path
from tests.cluster.pause_program import pause_program

_MEDIA = "application/vnd.oci.image"
_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}


def pause_layout() -> Path:
    """The OCI layout folder of the pause image, written when its program changed."""
    program = pause_program(platform.machine())
    folder = cache_folder() / "pause" / hashlib.sha256(program).hexdigest()[:16]
    if not (folder / "index.json").exists():
        _write_layout(folder, program)
    return folder


def _write_layout(folder: Path, program: bytes) -> None:
    layer = _layer(program)
    architecture = _ARCHITECTURE.get(platform.machine(), platform.machine())
    system = {"architecture": architecture, "os": "linux"}
    rootfs = {"type": "layers", "diff_ids": [_digest(layer)]}
    config = {
        **system,
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": rootfs,
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_MEDIA}.manifest.v1+json",
        "config": _write_blob(folder, f"{_MEDIA}.config.v1+json", json.dumps(config).encode()),
        "layers": [_write_blob(folder, f"{_MEDIA}.layer.v1.tar", layer)],
    }
    described = _write_blob(folder, f"{_MEDIA}.manifest.v1+json", json.dumps(manifest).encode())
    entry = described | {"platform": system, "annotations": {REF_ANNOTATION: PAUSE_IMAGE}}
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))


def _layer(program: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        member = tarfile.TarInfo("pause")
        member.size, member.mode = len(program), 0o755
        tar.addfile(member, io.BytesIO(program))
    return buffer.getvalue()


def _digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


def _write_blob(folder: Path, media_type: str, content: bytes) -> dict[str, Any]:
    path = folder / blob_path(_digest(content))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {"mediaType": media_type, "digest": _digest(content), "size": len(content)}
