"""Images reach a second node by links: which files are linked, and what falls back to copying."""

import hashlib
import json
from pathlib import Path

import pytest

from tests.cluster import sharing
from tests.cluster.errors import ClusterError
from tests.cluster.layout import Layout
from tests.cluster.oci import Image, read_images
from tests.cluster.sharing import (
    chain_ids,
    chain_of,
    linked_blobs,
    lower_folders,
    upper_folder,
)
from tests.support.oci import write_layout

ROOT = "/c/io.containerd.snapshotter.v1.overlayfs/snapshots"
LARGE = bytes(1 << 20)


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """One large and one small layer, in a folder."""
    (image,) = read_images(write_layout(tmp_path / "layout", LARGE, b"small"))
    return image


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What a node's containerd is told; its store is a folder."""
    made: list[tuple[str, str]] = []
    monkeypatch.setattr(sharing, "blob_folder", lambda *_: tmp_path / "store")
    monkeypatch.setattr(
        sharing, "adopt_blob", lambda *_, file, expected: made.append(("adopt", expected[0]))
    )
    monkeypatch.setattr(sharing, "release_blob", lambda *words: made.append(("release", words[2])))
    return made


def test_names_of_layers_chain() -> None:
    second = "sha256:" + hashlib.sha256(b"sha256:a sha256:b").hexdigest()
    third = "sha256:" + hashlib.sha256(f"{second} sha256:c".encode()).hexdigest()
    assert chain_ids(["sha256:a", "sha256:b", "sha256:c"]) == ["sha256:a", second, third]


def test_an_images_chain_is_read_from_its_configuration(tmp_path: Path) -> None:
    config = json.dumps({"rootfs": {"type": "layers", "diff_ids": ["sha256:a"]}}).encode()
    (image,) = read_images(write_layout(tmp_path, b"layer", config=config))
    assert chain_of(image) == ["sha256:a"]


def test_large_blobs_are_linked_and_kept_until_the_image_is_there(
    tmp_path: Path, image: Image, calls: list[tuple[str, str]]
) -> None:
    layout = Layout()
    (large,) = (digest for digest, size in image.blobs.items() if size == len(LARGE))
    with linked_blobs(layout, layout.nodes[0], image=image, blobs=image.blobs) as linked:
        assert linked == [large]
        assert calls == [("adopt", large)]
        name = large.replace(":", "/")
        ours, theirs = tmp_path / "layout/blobs" / name, tmp_path / "store/blobs" / name
        assert ours.samefile(theirs)
    assert calls == [("adopt", large), ("release", large)]


def test_what_cannot_be_linked_is_left_to_be_sent(
    image: Image, calls: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def other_file_system(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(sharing, "_link", other_file_system)
    layout = Layout()
    with linked_blobs(layout, layout.nodes[0], image=image, blobs=image.blobs) as linked:
        assert linked == []
    assert calls == []


def test_folders_are_read_from_mounts() -> None:
    first = f"mount -t bind {ROOT}/2/fs / -o rw,rbind\n"
    second = (
        f"mount -t overlay overlay / -o index=off,workdir={ROOT}/9/work,upperdir={ROOT}/9/fs,"
        f"lowerdir={ROOT}/5/fs:{ROOT}/4/fs\n"
    )
    assert upper_folder(first) == f"{ROOT}/2/fs"
    assert upper_folder(second) == f"{ROOT}/9/fs"
    assert lower_folders(second) == [f"{ROOT}/4/fs", f"{ROOT}/5/fs"]
    assert lower_folders(first) == []


def test_a_mount_of_another_kind_is_not_written_to() -> None:
    with pytest.raises(ClusterError, match="another kind"):
        upper_folder("mount -t zfs tank/x / -o rw\n")
