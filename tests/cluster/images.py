"""Brings images into the nodes: all images at once, and only what a node lacks.

An image is unpacked by one node; its layers and files are linked into the others, where they can
be (`sharing`). Containerd takes from its own store what an archive leaves out, so that little is
sent. Invariant: an import that fails for lack of a blob is repeated with all blobs.
"""

import contextlib
import subprocess
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.cluster.errors import ClusterError
from tests.cluster.layout import Layout, NodeSpec
from tests.cluster.oci import Image, missing_blobs, read_images, write_archive
from tests.cluster.runtime import collect_garbage, ctr, importer
from tests.cluster.sharing import linked_blobs, linked_layers

S = TypeVar("S")
T = TypeVar("T")
Known = Mapping[NodeSpec, Mapping[str, str]]
"""What each node has: names of images, and the digests they stand for."""


@dataclass(frozen=True, slots=True)
class Moved:
    """How many bytes came into a node, or several."""

    sent: int = 0
    linked: int = 0

    def __add__(self, other: "Moved") -> "Moved":
        return Moved(self.sent + other.sent, self.linked + other.linked)


def load(layout: Layout, paths: Iterable[Path]) -> None:
    """Import the images of these layout folders and archives, and say what was moved."""
    images = [image for path in paths for image in read_images(path)]
    started = time.monotonic()
    known = {node: _targets(layout, node) for node in layout.nodes}
    moved = sum(_each(images, lambda image: _spread(layout, image, known=known)), start=Moved())
    if moved != Moved():
        _each(layout.nodes, lambda node: _drop_stale(layout, node))
    names = " ".join(image.name for image in images)
    print(
        f"loaded {names}: {moved.sent / 2**20:.0f} MiB sent and {moved.linked / 2**20:.0f} MiB "
        f"linked into {len(layout.nodes)} nodes, {time.monotonic() - started:.1f} s"
    )


def _spread(layout: Layout, image: Image, *, known: Known) -> Moved:
    """Bring an image to all nodes: one unpacks it, unless one has it, and the others link that."""
    lacking = [node for node in layout.nodes if known[node].get(image.name) != image.digest]
    having = [node for node in layout.nodes if node not in lacking]
    if not lacking:
        return Moved()
    moved = Moved()
    if not having:
        having.append(lacking.pop(0))
        moved = _send(layout, having[0], image=image)

    def share(node: NodeSpec) -> Moved:
        with linked_layers(layout, image, source=having[0], target=node):
            return _send(layout, node, image=image)

    return sum(_each(lacking, share), start=moved)


def _each(things: Sequence[S], work: Callable[[S], T]) -> list[T]:
    """Do something with all of them at once."""
    with ThreadPoolExecutor(len(things) or 1) as pool:
        return list(pool.map(work, things))


def load_into(layout: Layout, node: NodeSpec, images: Iterable[Image]) -> Moved:
    """Import images into one node."""
    known = _targets(layout, node)
    wanted = [image for image in images if known.get(image.name) != image.digest]
    if not wanted:
        return Moved()
    moved = sum((_send(layout, node, image=image) for image in wanted), start=Moved())
    _drop_stale(layout, node)
    return moved


def _send(layout: Layout, node: NodeSpec, *, image: Image) -> Moved:
    present = set(ctr(layout, node, "content", "list", "-q").split())
    lacking = [digest for digest in image.blobs if digest not in present]
    with linked_blobs(layout, node, image=image, blobs=lacking) as linked:
        blobs = missing_blobs(image, present.union(linked))
        try:
            _import(layout, node, image=image, blobs=blobs)
        except ClusterError:
            if len(blobs) == len(image.blobs):
                raise
            blobs = list(image.blobs)  # a blob was collected as garbage between look and import
            _import(layout, node, image=image, blobs=blobs)
    return Moved(_size(image, blobs), _size(image, linked))


def _size(image: Image, blobs: Iterable[str]) -> int:
    return sum(image.blobs[digest] for digest in blobs)


def _import(layout: Layout, node: NodeSpec, *, image: Image, blobs: Collection[str]) -> None:
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
