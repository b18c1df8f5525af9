"""Makes the image of the pause container, the only one a cluster needs of itself.

A static Go program of a dozen lines in an OCI layout folder; the same bytes every time, so nodes
that have it are left alone.
"""

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path
from typing import Any

from tests.cluster.binary import SOURCES, check_go, go_build, source_hash
from tests.cluster.command import last_line
from tests.cluster.errors import ClusterError
from tests.cluster.layout import PAUSE_IMAGE, cache_folder
from tests.cluster.oci import REF_ANNOTATION, blob_path

_FLAGS = ("-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=")
_MEDIA = "application/vnd.oci.image"
_ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}


def pause_layout() -> Path:
    """The OCI layout folder of the pause image, built when its source changed."""
    folder = cache_folder() / "pause" / source_hash(SOURCES / "pause", _FLAGS)
    if not (folder / "index.json").exists():
        _write_layout(folder, _compile(folder / "pause"))
    return folder


def _compile(target: Path) -> bytes:
    check_go()
    child = go_build("./pause", target, _FLAGS)
    _, said = child.communicate()
    if child.returncode != 0:
        raise ClusterError(f"go build ./pause failed: {last_line(said)}")
    return target.read_bytes()


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
