"""Owns what an image's root file system has: its layers, one laid over the other.

Called by `sbom` and tests. Invariant: what a layer takes away (whiteouts) is not there, and of a
path that several layers have the highest one's is.
"""

import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from images import layout
from images.command import ImageError

_WHITEOUT, _OPAQUE = ".wh.", ".wh..wh..opq"


@dataclass(frozen=True, slots=True)
class Entry:
    tar: tarfile.TarFile
    member: tarfile.TarInfo

    def read(self) -> bytes:
        """A file's content; nothing of what is none. Hard links lead to their layer's file."""
        content = self.tar.extractfile(self.member)
        return b"" if content is None else content.read()


Root = dict[str, Entry]
"""By path, without a slash at its beginning."""


@contextmanager
def opened(folder: Path) -> Iterator[Root]:
    """The root file system of the image in a layout folder, as long as the context is open."""
    index = layout.read_index(folder)
    if index is None:
        raise ImageError(f"there is no image in {folder}: make images comes first")
    with ExitStack() as tars:
        root: Root = {}
        for path in layout.layers(folder, index["manifests"][0]):
            lay(tars.enter_context(tarfile.open(path)), root)
        yield root


def lay(tar: tarfile.TarFile, root: Root) -> None:
    """Lays a layer over what is there."""
    members = {member.name.removeprefix("./").strip("/"): member for member in tar}
    gone = [_taken_away(name) for name in members if _WHITEOUT in name]
    for path in gone:
        for known in [one for one in root if one == path or one.startswith(f"{path}/")]:
            del root[known]
    root |= {name: Entry(tar, one) for name, one in members.items() if _WHITEOUT not in name}


def _taken_away(name: str) -> str:
    folder, _, last = name.rpartition("/")
    if last == _OPAQUE:
        return folder
    return f"{folder}/{last.removeprefix(_WHITEOUT)}".lstrip("/")
