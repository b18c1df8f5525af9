"""Two builds whose files are the same are one image, whenever an engine made it."""

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from images import layout
from images.undated import undated
from tests.support.images import put_blob

LAYER = "application/vnd.oci.image.layer.v1.tar"
BASE_OF = "org.opencontainers.image.base"
BASE = f"{BASE_OF}.name"
DAYS = ("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z")


def layer(*, run_s: int, format: int = tarfile.PAX_FORMAT, prefix: str = "") -> bytes:
    """A file, and the folder in which engines mount one, with headers of its own kind."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=format) as tar:
        etc = tarfile.TarInfo(f"{prefix}etc/a")
        etc.size, etc.mtime = 3, 7
        tar.addfile(etc, io.BytesIO(b"abc"))
        run = tarfile.TarInfo(f"{prefix}run")
        run.type, run.mtime = tarfile.DIRTYPE, run_s
        run.pax_headers = {"SCHILY.xattr.user.a": "b"}
        tar.addfile(run)
    return made.getvalue()


def dated_image(
    folder: Path, created: str, *layers: bytes, kind: str = LAYER, base: str = "localhost/a:1"
) -> layout.Json:
    """An image as an engine exports it."""
    blobs = [put_blob(folder, one) | {"mediaType": kind} for one in layers]
    config = {
        "created": created,
        "history": [{"created": created, "created_by": "RUN x", "comment": f"FROM {created}"}],
        "rootfs": {"type": "layers", "diff_ids": [one["digest"] for one in blobs]},
    }
    manifest = {
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put_blob(folder, json.dumps(config).encode()),
        "layers": blobs,
        "annotations": {BASE: base, f"{BASE_OF}.digest": created},
    }
    return put_blob(folder, json.dumps(manifest).encode()) | {"mediaType": manifest["mediaType"]}


@pytest.mark.parametrize("format", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
@pytest.mark.parametrize("prefix", ["", "./"])
def test_two_builds_of_equal_files_are_one_image(tmp_path: Path, format: int, prefix: str) -> None:
    digests = []
    for number, created in enumerate(DAYS):
        layers = (layer(run_s=0), layer(run_s=1000 + number, format=format, prefix=prefix))
        made = undated(tmp_path, dated_image(tmp_path, created, *layers))
        layout.publish(tmp_path, made, reference="a/b:1", inputs="inputs")
        assert layout.built_from(tmp_path) == "inputs"
        digests.append(made["digest"])
    assert digests[0] == digests[1]


def test_layers_and_config_name_what_is_there(tmp_path: Path) -> None:
    made = undated(tmp_path, dated_image(tmp_path, DAYS[0], layer(run_s=1000)))
    manifest = json.loads(layout.blob(tmp_path, made["digest"]).read_text())
    config = json.loads(layout.blob(tmp_path, manifest["config"]["digest"]).read_text())
    (digest,) = config["rootfs"]["diff_ids"]
    (path,) = layout.layers(tmp_path, made)
    assert manifest["layers"][0]["digest"] == digest
    assert digest == f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    with tarfile.open(path) as tar:
        told = {one.name: (one.mtime, one.pax_headers) for one in tar}
        content = tar.extractfile("etc/a")
        assert content is not None
        assert content.read() == b"abc"
    assert told == {"etc/a": (7, {}), "run": (0, {"SCHILY.xattr.user.a": "b"})}


def test_a_base_that_others_have_is_told(tmp_path: Path) -> None:
    made = undated(tmp_path, dated_image(tmp_path, DAYS[0], base="registry.example/debian:1"))
    manifest = json.loads(layout.blob(tmp_path, made["digest"]).read_text())
    assert manifest["annotations"] == {
        BASE: "registry.example/debian:1",
        f"{BASE_OF}.digest": DAYS[0],
    }


@pytest.mark.parametrize("kind", [LAYER, f"{LAYER}+gzip"])
def test_what_has_no_time_is_the_file_that_it_was(tmp_path: Path, kind: str) -> None:
    """So is what an engine has packed: it would be packed in another way."""
    content = layer(run_s=0) if kind == LAYER else b"\x1f\x8b"
    made = undated(tmp_path, dated_image(tmp_path, DAYS[0], content, kind=kind))
    (path,) = layout.layers(tmp_path, made)
    assert path.name == hashlib.sha256(content).hexdigest()
