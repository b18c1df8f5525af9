"""Which parts of an image go to a node, and in what archive."""

import io
import json
import tarfile
from pathlib import Path

import pytest

from tests.cluster.errors import ClusterError
from tests.cluster.images import parse_image_list, stale_names
from tests.cluster.oci import (
    NAME_ANNOTATION,
    Image,
    blob_path,
    image_name,
    missing_blobs,
    read_images,
    write_archive,
)
from tests.support.oci import NAME, write_layout


def read_one(path: Path) -> Image:
    (image,) = read_images(path)
    return image


def test_an_image_knows_all_its_blobs(tmp_path: Path) -> None:
    image = read_one(write_layout(tmp_path, b"base", b"top"))
    assert image.name == NAME
    assert len(image.blobs) == 4
    assert image.digest in image.blobs


def test_only_the_changed_layer_and_its_manifest_are_missing(tmp_path: Path) -> None:
    before = read_one(write_layout(tmp_path / "before", b"base", b"old"))
    after = read_one(write_layout(tmp_path / "after", b"base", b"new"))
    missing = missing_blobs(after, before.blobs)
    assert {after.blobs[digest] for digest in missing} == {len(b"new"), after.blobs[after.digest]}
    assert after.digest in missing


def test_a_store_with_everything_gets_the_manifest_alone(tmp_path: Path) -> None:
    image = read_one(write_layout(tmp_path, b"base"))
    assert missing_blobs(image, image.blobs) == [image.digest]


def test_the_archive_holds_the_name_and_only_the_wanted_blobs(tmp_path: Path) -> None:
    image = read_one(write_layout(tmp_path, b"base", b"top"))
    target = io.BytesIO()
    write_archive(image, [image.digest], target)
    with tarfile.open(fileobj=io.BytesIO(target.getvalue())) as tar:
        names = tar.getnames()
        file = tar.extractfile("index.json")
        assert file is not None
        index = json.load(file)
    assert names == ["oci-layout", "index.json", blob_path(image.digest)]
    assert index["manifests"][0]["annotations"] == {NAME_ANNOTATION: NAME}


@pytest.mark.parametrize("prefix", ["", "./"])
def test_an_archive_is_read_like_a_folder(tmp_path: Path, prefix: str) -> None:
    folder = write_layout(tmp_path / "layout", b"base", b"top")
    path = tmp_path / "image.tar"
    with tarfile.open(path, "w") as tar:
        tar.add(folder, arcname=prefix or "/")
    image, same = read_one(path), read_one(folder)
    assert image.blobs == same.blobs
    digest = next(d for d, size in image.blobs.items() if size == len(b"base"))
    assert image.source.read(blob_path(digest)) == b"base"


def test_a_bare_tag_is_no_name(tmp_path: Path) -> None:
    assert image_name({"annotations": {"org.opencontainers.image.ref.name": "1"}}) is None
    with pytest.raises(ClusterError, match="no full name"):
        read_images(write_layout(tmp_path, b"base", name="latest"))


def test_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"not a tar")
    for path in (tmp_path, tmp_path / "x.tar", tmp_path / "absent"):
        with pytest.raises(ClusterError, match="no OCI image"):
            read_images(path)


def test_the_runtime_list_gives_names_and_digests() -> None:
    text = f"REF TYPE DIGEST SIZE\n{NAME} type sha256:aa 1 MiB\nsha256:cc type sha256:aa 1 MiB\n"
    assert parse_image_list(text) == {NAME: "sha256:aa", "sha256:cc": "sha256:aa"}


def test_digest_names_of_replaced_images_are_stale() -> None:
    targets = {NAME: "sha256:new", "sha256:c1": "sha256:new", "sha256:c0": "sha256:old"}
    assert stale_names(targets) == ["sha256:c0"]
