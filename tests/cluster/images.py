"""Brings images into the nodes: all nodes at once, and only the blobs that a node lacks.

Containerd takes from its own store what an archive leaves out, so a changed top layer of a large
image is sent alone. Invariant: an import that fails for lack of a blob is repeated with all blobs.
"""

import contextlib
import subprocess
import time
from collections.abc import Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cluster.errors import ClusterError
from tests.cluster.layout import Layout, NodeSpec
from tests.cluster.oci import Image, missing_blobs, read_images, write_archive
from tests.cluster.runtime import collect_garbage, ctr, importer


def load(layout: Layout, paths: Iterable[Path]) -> None:
    """Import the images of these layout folders and archives, and say what was sent."""
    images = [image for path in paths for image in read_images(path)]
    started = time.monotonic()
    with ThreadPoolExecutor(len(layout.nodes)) as pool:
        sent = list(pool.map(lambda node: load_into(layout, node, images), layout.nodes))
    mebibytes = sum(sent) / 2**20
    names = " ".join(image.name for image in images)
    print(f"loaded {names}: {mebibytes:.0f} MiB sent to {len(sent)} nodes, {_since(started)}")


def _since(started: float) -> str:
    return f"{time.monotonic() - started:.1f} s"


def load_into(layout: Layout, node: NodeSpec, images: Iterable[Image]) -> int:
    """Import images into one node; returns how many bytes that took."""
    known = _targets(layout, node)
    wanted = [image for image in images if known.get(image.name) != image.digest]
    if not wanted:
        return 0
    sent = sum(_send(layout, node, image) for image in wanted)
    _drop_stale(layout, node)
    return sent


def _send(layout: Layout, node: NodeSpec, image: Image) -> int:
    present = set(ctr(layout, node, "content", "list", "-q").split())
    blobs = missing_blobs(image, present)
    try:
        _import(layout, node, image, blobs)
    except ClusterError:
        if len(blobs) == len(image.blobs):
            raise
        blobs = list(image.blobs)  # a blob was collected as garbage between look and import
        _import(layout, node, image, blobs)
    return sum(image.blobs[digest] for digest in blobs)


def _import(layout: Layout, node: NodeSpec, image: Image, blobs: Collection[str]) -> None:
    child = importer(layout, node)
    said = _feed(child, image, blobs)
    if child.returncode != 0:
        raise ClusterError(
            f"node {node.name} did not take {image.name}: {said or 'no reason given'}"
        )


def _feed(child: "subprocess.Popen[bytes]", image: Image, blobs: Collection[str]) -> str:
    assert child.stdin is not None
    assert child.stderr is not None
    with child:
        with contextlib.suppress(BrokenPipeError), child.stdin:  # one that ended says why below
            write_archive(image, blobs, child.stdin)
        said = child.stderr.read().decode().strip()
    return said.splitlines()[-1] if said else ""


def _targets(layout: Layout, node: NodeSpec) -> dict[str, str]:
    """Names of the images a node has, and the digests they stand for."""
    return parse_image_list(ctr(layout, node, "images", "list"))


def parse_image_list(text: str) -> dict[str, str]:
    rows = (line.split() for line in text.splitlines()[1:])
    return {row[0]: row[2] for row in rows if len(row) > 2}


def stale_names(targets: dict[str, str]) -> list[str]:
    """Names by digest alone, which the kubelet's side adds, of images that nothing else names."""
    named = {digest for name, digest in targets.items() if not name.startswith("sha256:")}
    return [
        name
        for name, digest in targets.items()
        if name.startswith("sha256:") and digest not in named
    ]


def _drop_stale(layout: Layout, node: NodeSpec) -> None:
    """Let containerd collect the layers of images that were replaced."""
    if names := stale_names(_targets(layout, node)):
        ctr(layout, node, "images", "remove", *names)
        collect_garbage(layout, node)
