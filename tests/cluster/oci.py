"""Reads OCI images on disk: a layout folder, or an archive (tar) of one. Knows no cluster.

`images` asks which blobs an image needs and streams those that a node lacks.
"""

import io
import json
import tarfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol

from tests.cluster.errors import ClusterError

Json = dict[str, Any]
NAME_ANNOTATION = "io.containerd.image.name"
REF_ANNOTATION = "org.opencontainers.image.ref.name"
_CHUNK = 1 << 20
_LAYOUT_FILE = b'{"imageLayoutVersion":"1.0.0"}'


class Source(Protocol):
    """Files of an OCI layout, wherever they lie."""

    def open(self, name: str) -> IO[bytes]:
        """The file, positioned at its start; it may be followed by other content."""

    def read(self, name: str) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Folder:
    path: Path

    def open(self, name: str) -> IO[bytes]:
        return (self.path / name).open("rb")

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()


@dataclass(frozen=True, slots=True)
class Archive:
    path: Path
    places: dict[str, tuple[int, int]]
    """Offset and size of each file in the archive: nodes read it at the same time."""

    @classmethod
    def index(cls, path: Path) -> "Archive":
        with tarfile.open(path, "r:") as tar:
            members = {member.name.removeprefix("./"): member for member in tar}
        return cls(path, {name: (m.offset_data, m.size) for name, m in members.items()})

    def open(self, name: str) -> IO[bytes]:
        if name not in self.places:
            raise FileNotFoundError(f"it holds no {name}")
        file = self.path.open("rb")
        file.seek(self.places[name][0])
        return file

    def read(self, name: str) -> bytes:
        with self.open(name) as file:
            return file.read(self.places[name][1])


@dataclass(frozen=True, slots=True)
class Image:
    name: str
    source: Source
    descriptor: Json
    blobs: dict[str, int] = field(default_factory=dict)
    """Digest and size of everything the image consists of."""

    @property
    def digest(self) -> str:
        return str(self.descriptor["digest"])


def read_images(path: Path) -> list[Image]:
    try:
        source: Source = Folder(path) if path.is_dir() else Archive.index(path)
        index = json.loads(source.read("index.json"))
        return [_read_image(source, descriptor, path) for descriptor in index["manifests"]]
    except (OSError, ValueError, KeyError, tarfile.TarError) as error:
        raise ClusterError(f"{path} is no OCI image layout or archive: {error}") from error


def _read_image(source: Source, descriptor: Json, path: Path) -> Image:
    name = image_name(descriptor)
    if name is None:
        raise ClusterError(
            f"an image in {path} has no full name in its annotation {REF_ANNOTATION}: "
            "write it as lockstep.local/NAME:TAG"
        )
    return Image(name, source, descriptor, dict(_reachable(source, descriptor)))


def image_name(descriptor: Json) -> str | None:
    notes = descriptor.get("annotations") or {}
    for key in (NAME_ANNOTATION, REF_ANNOTATION):
        if "/" in notes.get(key, ""):  # a bare tag names no image
            return str(notes[key])
    return None


def _reachable(source: Source, descriptor: Json) -> Iterator[tuple[str, int]]:
    yield descriptor["digest"], descriptor["size"]
    kind = descriptor["mediaType"]
    if kind.endswith(("manifest.v1+json", "manifest.v2+json", "index.v1+json", "list.v2+json")):
        document = json.loads(source.read(blob_path(descriptor["digest"])))
        for child in _children(document):
            yield from _reachable(source, child)


def _children(document: Json) -> list[Json]:
    config = [document["config"]] if "config" in document else []
    return [*config, *document.get("layers", []), *document.get("manifests", [])]


def blob_path(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def missing_blobs(image: Image, present: Collection[str]) -> list[str]:
    """What a store that has `present` lacks of the image; its (small) manifest always goes."""
    top = image.digest
    return [digest for digest in image.blobs if digest == top or digest not in present]


def write_archive(image: Image, blobs: Collection[str], target: IO[bytes]) -> None:
    """Write an archive with the image's name and only these of its blobs."""
    named = image.descriptor | {"annotations": {NAME_ANNOTATION: image.name}}
    index = {"schemaVersion": 2, "manifests": [named]}
    text = json.dumps(index).encode()
    _add(target, "oci-layout", io.BytesIO(_LAYOUT_FILE), len(_LAYOUT_FILE))
    _add(target, "index.json", io.BytesIO(text), len(text))
    for digest in blobs:
        with image.source.open(blob_path(digest)) as file:
            _add(target, blob_path(digest), file, image.blobs[digest])
    target.write(bytes(2 * tarfile.BLOCKSIZE))


def _add(target: IO[bytes], name: str, file: IO[bytes], size: int) -> None:
    """Append one member. Written out here, for tarfile's streams copy 16 KiB at a time, which made
    sending a large image to several nodes at once a matter of Python's speed."""
    member = tarfile.TarInfo(name)
    member.size = size
    target.write(member.tobuf(tarfile.USTAR_FORMAT))
    remaining = size
    while remaining:
        chunk = file.read(min(remaining, _CHUNK))
        if not chunk:
            raise ClusterError(f"{name} is {remaining} bytes shorter than its image says")
        target.write(chunk)
        remaining -= len(chunk)
    target.write(bytes(-size % tarfile.BLOCKSIZE))
