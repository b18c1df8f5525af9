"""Images made by hand: layout folders, the archives of older Dockers, programs that play an engine.

Used by the tests of the image builder.
"""

import hashlib
import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path

from images import layout


def put_blob(folder: Path, content: bytes) -> layout.Json:
    digest = hashlib.sha256(content).hexdigest()
    path = folder / "blobs" / "sha256" / digest
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {"mediaType": "layer", "digest": f"sha256:{digest}", "size": len(content)}


def put_image(folder: Path, *layers: bytes) -> layout.Json:
    """An image of these layers as blobs of a layout folder; returns its descriptor."""
    config = put_blob(folder, b"{}")
    manifest = {"config": config, "layers": [put_blob(folder, layer) for layer in layers]}
    kind = "application/vnd.oci.image.manifest.v1+json"
    return put_blob(folder, json.dumps(manifest).encode()) | {"mediaType": kind}


def classic_archive(path: Path, *layers: bytes, twice: bool = False) -> None:
    """What `docker save` wrote before Docker 25; with `twice` the first layer is there again."""
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers"}})
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    with tarfile.open(path, "w") as tar:
        for name, content in zip(names, layers, strict=True):
            _add(tar, name, content)
        if twice:
            link = tarfile.TarInfo("again/layer.tar")
            link.type, link.linkname = tarfile.SYMTYPE, "../0/layer.tar"
            tar.addfile(link)
            names.append(link.name)
        _add(tar, "config.json", config.encode())
        listed = [{"Config": "config.json", "RepoTags": ["a/b:1"], "Layers": names}]
        _add(tar, "manifest.json", json.dumps(listed).encode())


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


@dataclass(frozen=True, slots=True)
class PlayedEngine:
    """A program that answers as docker or podman would, and refuses flags that it does not know."""

    flags: tuple[str, ...] = ("--secret", "--file", "--tag", "--build-arg", "--layers")
    daemon: str = ":"
    builder: str = ":"
    base: str = ":"
    """Shell commands that end with an error where one of the three is missing."""
    saves: Path = Path("/dev/null")
    """The archive that its `save` prints, or unpacks into --output."""

    def install(self, folder: Path, name: str) -> None:
        """Put it into a folder of PATH."""
        program = folder / name
        program.write_text(self._script())
        program.chmod(0o755)

    def _script(self) -> str:
        known = "|".join(f"{flag}|{flag}=*" for flag in self.flags)
        options = "\n".join(f"      {flag} string   text" for flag in self.flags)
        return f"""#!/bin/sh
case "$1" in
version|info) {self.daemon} ;;
save)
  for word; do
    if [ "$before" = --output ]; then mkdir "$word"; exec tar -xf "{self.saves}" -C "$word"; fi
    before=$word
  done
  cat "{self.saves}" ;;
build)
  {self.builder}
  if [ "$2" = --help ]; then echo '{options}'; exit 0; fi
  for word; do
    case "$word" in {known}) ;; --*) echo "unknown flag: $word" >&2; exit 125 ;; esac
  done
  {self.base} ;;
esac
"""


def fails(words: str) -> str:
    """A shell command that says these words and ends the program."""
    return f"echo '{words}' >&2; exit 1"
