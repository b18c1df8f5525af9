"""Whether two builds of one commit are one image: `make bench-reproducible`.

    python -m tests.bench.reproducible [--first CACHE] [--second CACHE]

Builds all images twice, each time from nothing in a cache of its own, and says of each image
whether its digest is the same, what of its documents differs, and of each layer which files do. A
cache that is given is kept; what is in it already is not built again.
"""

import argparse
import difflib
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from images import layout
from images.recipe import RECIPES, ROOT

SHOWN = 20

Facts = tuple[object, ...]


def entries(layer: Path) -> dict[str, Facts]:
    """What a layer says of each path, and a digest of what is in it."""
    with tarfile.open(layer) as tar:
        return {member.name: _facts(tar, member) for member in tar}


def _facts(tar: tarfile.TarFile, member: tarfile.TarInfo) -> Facts:
    content = tar.extractfile(member) if member.isreg() else None
    digest = "" if content is None else hashlib.sha256(content.read()).hexdigest()
    kept = (member.type, member.mode, member.uid, member.gid, member.linkname, member.mtime)
    return (*kept, sorted(member.pax_headers.items()), digest)


def differing(first: Path, second: Path) -> list[str]:
    """The paths of which two layers say different things."""
    mine, other = entries(first), entries(second)
    return sorted(path for path in mine.keys() | other.keys() if mine.get(path) != other.get(path))


def compared(first: Path, second: Path) -> Iterator[str]:
    """Lines about one image in two layout folders."""
    one, two = (layout.read_index(folder) for folder in (first, second))
    assert one is not None
    assert two is not None
    digests = [index["manifests"][0]["digest"] for index in (one, two)]
    yield f"{first.name}: {'the same image' if digests[0] == digests[1] else 'differs'}"
    pairs = zip(
        layout.layers(first, one["manifests"][0]),
        layout.layers(second, two["manifests"][0]),
        strict=True,
    )
    before, after = [*told(first)], [*told(second)]
    yield from (f"  {line}" for line in difflib.unified_diff(before, after, n=0, lineterm=""))
    for number, (mine, other) in enumerate(pairs):
        if mine.name == other.name:
            yield f"  layer {number}: the same, {mine.stat().st_size / 1e6:.0f} MB"
            continue
        paths = differing(mine, other)
        yield f"  layer {number}: {len(paths)} paths differ (0: their order does)"
        yield from (f"    {path}" for path in paths[:SHOWN])


def told(folder: Path) -> Iterator[str]:
    """Lines of what an image says of itself: manifest and config."""
    index = layout.read_index(folder)
    assert index is not None
    manifest = json.loads(layout.blob(folder, index["manifests"][0]["digest"]).read_text())
    config = json.loads(layout.blob(folder, manifest["config"]["digest"]).read_text())
    yield from json.dumps([manifest, config], indent=1, sort_keys=True).splitlines()


@contextmanager
def cache(given: Path | None) -> Iterator[Path]:
    """A cache with all images."""
    with tempfile.TemporaryDirectory() as scratch:
        place = given or Path(scratch)
        build = [sys.executable, "images/build.py"]
        subprocess.run(
            build, cwd=ROOT, env={**os.environ, "XDG_CACHE_HOME": str(place)}, check=True
        )
        yield place / "lockstep" / "images"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.reproducible", description=__doc__)
    parser.add_argument("--first", type=Path, help="cache of the first build")
    parser.add_argument("--second", type=Path, help="cache of the second build")
    options = parser.parse_args()
    with cache(options.first) as first, cache(options.second) as second:
        for name in RECIPES:
            print(*compared(first / name, second / name), sep="\n", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
