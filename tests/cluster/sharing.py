"""Gives a node an image without copying it: hard links to its layers, and to their unpacked files.

`images` calls it before it imports what is left. Layers are linked from an image's layout folder
into the node's content store, unpacked files from a node that has them. Invariant: what is linked
is never written: blobs are immutable, and pods write to layers of their own (overlayfs copies up).
Where links are impossible, the import copies and unpacks as ever.
"""

import contextlib
import hashlib
import itertools
import json
import re
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path

from tests.cluster.command import run
from tests.cluster.errors import ClusterError
from tests.cluster.layout import Layout, NodeSpec
from tests.cluster.oci import Folder, Image, blob_path
from tests.cluster.runtime import (
    adopt_blob,
    blob_folder,
    ctr,
    release_blob,
    release_snapshot,
)

_WORTH_IT_BYTES = 1 << 20


@contextlib.contextmanager
def linked_blobs(
    layout: Layout, node: NodeSpec, *, image: Image, blobs: Iterable[str]
) -> Iterator[list[str]]:
    """Link blobs of an image into a node's content store, and keep them until it is there.

    Gives those that could be linked and are worth it: a file's worth of bytes is sent as fast.
    """
    linked: list[str] = []
    try:
        if isinstance(image.source, Folder):  # an archive's blobs are no files
            large = [digest for digest in blobs if image.blobs[digest] >= _WORTH_IT_BYTES]
            linked += [each for each in large if _lent(layout, node, image=image, digest=each)]
        yield linked
    finally:
        for digest in linked:
            release_blob(layout, node, digest)


def _lent(layout: Layout, node: NodeSpec, *, image: Image, digest: str) -> bool:
    assert isinstance(image.source, Folder)
    file = image.source.path / blob_path(digest)
    try:
        _link(file, blob_folder(layout, node) / blob_path(digest))
        adopt_blob(layout, node, file=file, expected=(digest, image.blobs[digest]))
    except (OSError, ClusterError):  # another file system, say: it is sent
        return False
    return True


def _link(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):  # left there by one that was interrupted
        target.hardlink_to(file)


def chain_ids(diff_ids: Iterable[str]) -> list[str]:
    """The names of unpacked layers: each that of all layers up to it."""
    chain: list[str] = []
    for diff in diff_ids:
        text = f"{chain[-1]} {diff}" if chain else diff
        chain.append("sha256:" + hashlib.sha256(text.encode()).hexdigest() if chain else diff)
    return chain


def chain_of(image: Image) -> list[str]:
    """Those of an image, lowest first; none of one for several platforms."""
    manifest = json.loads(image.source.read(blob_path(image.digest)))
    if "config" not in manifest:
        return []
    config = json.loads(image.source.read(blob_path(manifest["config"]["digest"])))
    return chain_ids(config["rootfs"]["diff_ids"])


@contextlib.contextmanager
def linked_layers(
    layout: Layout, image: Image, *, source: NodeSpec, target: NodeSpec
) -> Iterator[None]:
    """Link an image's unpacked layers from a node that has it, and keep them until it is there."""
    linked: list[str] = []
    try:
        with contextlib.suppress(ClusterError):  # the target unpacks itself what is not there
            for layer, folder in _layers(layout, image, node=source):
                if layer[1] not in ctr(layout, target, "snapshots", "list").split():
                    _link_layer(layout, target, folder=folder, layer=layer)
                    linked.append(layer[1])
        yield
    finally:
        for name in linked:
            release_snapshot(layout, target, name)


def _layers(
    layout: Layout, image: Image, *, node: NodeSpec
) -> Iterator[tuple[tuple[str, str], str]]:
    """Names of each layer's parent and of itself, lowest first, and where a node has its files."""
    chain = chain_of(image)
    folders = _folders(layout, node, top=chain[-1]) if chain else []
    if len(folders) == len(chain):
        yield from zip(itertools.pairwise(["", *chain]), folders, strict=True)


def _folders(layout: Layout, node: NodeSpec, *, top: str) -> list[str]:
    """Where a node has the unpacked layers up to this one, lowest first."""
    key = _temporary()
    ctr(layout, node, "snapshots", "prepare", key, top)  # a view could be collected meanwhile
    try:
        return lower_folders(ctr(layout, node, "snapshots", "mounts", "/", key))
    finally:
        ctr(layout, node, "snapshots", "remove", key)


def _link_layer(layout: Layout, node: NodeSpec, *, folder: str, layer: tuple[str, str]) -> None:
    parent, name = layer
    key = _temporary()
    ctr(layout, node, "snapshots", "prepare", key, *filter(None, [parent]))
    try:
        place = upper_folder(ctr(layout, node, "snapshots", "mounts", "/", key))
        run("cp", "--archive", "--link", f"{folder}/.", place, timeout_s=600)
        ctr(layout, node, "snapshots", "commit", name, key)
    except ClusterError:
        with contextlib.suppress(ClusterError):
            ctr(layout, node, "snapshots", "remove", key)
        if name not in ctr(layout, node, "snapshots", "list").split():
            raise  # else it came with another image meanwhile


def _temporary() -> str:
    return f"lockstep-link-{uuid.uuid4().hex}"


def lower_folders(mount: str) -> list[str]:
    """The folders of the layers below a new one, lowest first, by the mount that shows it."""
    match = re.search(r"lowerdir=([^,\s]+)", mount)
    return match[1].split(":")[::-1] if match else []


def upper_folder(mount: str) -> str:
    """The folder that a new layer is written to; without layers below it is a bind mount.

    Raises:
        ClusterError: it is a mount of another kind.
    """
    match = re.search(r"upperdir=([^,\s]+)|-t bind (\S+) ", mount)
    if match is None:
        raise ClusterError(f"containerd answered with a mount of another kind: {mount.strip()}")
    return match[1] or match[2]
