"""Owns the lists of parts: `make sbom`, CycloneDX documents of the images and of the wheel.

Called by the command line and by `release`. Invariant: the same images and locks give the same
documents, byte for byte: no time but that of the commit, no number that was drawn.
"""

import argparse
import hashlib
import subprocess
import sys
import uuid
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.exception.factory import InvalidSpdxLicenseException
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import License
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from images.cli import layout_folder
from images.command import ImageError, cache_folder
from images.layout import read_index
from images.merged import Root, opened
from images.parts import (
    DPKG_STATUS,
    Part,
    debian_parts,
    is_metadata,
    locked,
    package_of,
    python_parts,
)
from images.recipe import RECIPES, ROOT, project_version, reference

LICENCES = "LICENCES.md"
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "lockstep.dev")
_IN_THE_WHEEL = ("demo", "operator", "worker")
"""Locks that between them pin what the wheel's extras ask for at run time."""


def parts_of_image(root: Root, lock: str) -> list[Part]:
    """Debian's packages and those of the lock, as they lie in the image."""
    copyrights = {
        package: entry.read().decode(errors="replace")
        for path, entry in root.items()
        if (package := package_of(path)) is not None
    }
    status = root[DPKG_STATUS].read().decode()
    metadata = [entry.read().decode() for path, entry in root.items() if is_metadata(path)]
    hashes = {name: part.hashes for name, part in locked(lock).items()}
    return sorted([*debian_parts(status, copyrights), *python_parts(metadata, hashes)])


def parts_of_wheel(locks: Iterable[str]) -> list[Part]:
    """What the wheel needs, at the versions that it is tested with; it brings none of it along."""
    merged: dict[str, Part] = {}
    for text in locks:
        merged |= locked(text)
    return sorted(merged.values())


def document(subject: Component, parts: Sequence[Part], *, time_s: int) -> str:
    """The CycloneDX document (1.6, JSON) of something that has these parts."""
    components = [_component(part) for part in parts]
    metadata = BomMetaData(component=subject, timestamp=datetime.fromtimestamp(time_s, UTC))
    told = hashlib.sha256(repr((str(subject.purl), subject.version, parts)).encode()).hexdigest()
    bom = Bom(components=components, metadata=metadata, serial_number=uuid.uuid5(_NAMESPACE, told))
    bom.register_dependency(subject, components)
    return str(JsonV1Dot6(bom).output_as_string(indent=1)) + "\n"


def _component(part: Part) -> Component:
    namespace = "debian" if part.kind == "deb" else None
    purl = PackageURL(part.kind, namespace, part.name, part.version)
    return Component(
        name=part.name,
        version=part.version,
        type=ComponentType.LIBRARY,
        purl=purl,
        bom_ref=str(purl),
        licenses=_licences(part.licences),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=one) for one in part.hashes],
    )


def _licences(names: Sequence[str]) -> list[License]:
    """As SPDX knows them, where it does; an expression only where it is the whole licence."""
    factory = LicenseFactory()
    if len(names) == 1:
        return [factory.make_from_string(names[0])]
    return [_known(factory, name) for name in names]


def _known(factory: LicenseFactory, name: str) -> License:
    try:
        return factory.make_with_id(name)
    except InvalidSpdxLicenseException:
        return factory.make_with_name(name)


def image_documents(cache: Path, *, time_s: int) -> dict[str, tuple[str, list[Part]]]:
    """Of each image, by the file's name: its document and its parts.

    Raises:
        ImageError: an image is not built.
    """
    version, made = project_version(), dict[str, tuple[str, list[Part]]]()
    for name in RECIPES:
        folder = layout_folder(cache, name)
        lock = ROOT / "requirements" / f"{name}.lock"
        with opened(folder) as root:
            parts = parts_of_image(root, lock.read_text() if lock.exists() else "")
        index = read_index(folder)
        assert index is not None
        digest = index["manifests"][0]["digest"]
        subject = Component(
            name=reference(name, version).rpartition(":")[0],
            version=version,
            type=ComponentType.CONTAINER,
            bom_ref=f"lockstep-{name}",
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest.removeprefix("sha256:"))],
        )
        told = document(subject, parts, time_s=time_s)
        made[f"lockstep-{name}-{version}.cdx.json"] = told, parts
    return made


def wheel_document(*, time_s: int) -> tuple[str, list[Part]]:
    """The wheel's document and what it needs."""
    version = project_version()
    locks = [(ROOT / "requirements" / f"{name}.lock").read_text() for name in _IN_THE_WHEEL]
    parts = parts_of_wheel(locks)
    purl = PackageURL("pypi", None, "lockstep", version)
    subject = Component(
        name="lockstep",
        version=version,
        type=ComponentType.APPLICATION,
        purl=purl,
        bom_ref=str(purl),
        licenses=[LicenseFactory().make_with_id("Apache-2.0")],
    )
    return document(subject, parts, time_s=time_s), parts


def licences_page(parts: Iterable[Part]) -> str:
    """A table of all parts of the images and what licences they say they have."""
    lines = ["# Licences of what the images hold", "", "| part | version | licences |"]
    lines += ["| --- | --- | --- |"]
    for part in sorted(set(parts)):
        said = ", ".join(part.licences) or "see its copyright file"
        lines.append(f"| {part.kind}: {part.name} | {part.version} | {said} |")
    return "\n".join(lines) + "\n"


def write(out: Path, *, cache: Path, time_s: int) -> list[Path]:
    """Writes all documents into a folder; returns their paths."""
    out.mkdir(parents=True, exist_ok=True)
    images = image_documents(cache, time_s=time_s)
    texts = {name: text for name, (text, _) in images.items()}
    texts[f"lockstep-{project_version()}.cdx.json"] = wheel_document(time_s=time_s)[0]
    texts[LICENCES] = licences_page(part for _, parts in images.values() for part in parts)
    for name, text in texts.items():
        (out / name).write_text(text)
    return [out / name for name in sorted(texts)]


def commit_time_s() -> int:
    """When the last commit was made."""
    words = ["git", "log", "-1", "--format=%ct"]
    return int(subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m images.sbom", description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "sbom", help="folder")
    parser.add_argument("--time", type=int, help="seconds since 1970; that of the last commit")
    options = parser.parse_args()
    time_s = commit_time_s() if options.time is None else options.time
    try:
        for path in write(options.out, cache=cache_folder(), time_s=time_s):
            print(f"{path.stat().st_size / 1e3:8.0f} kB  {path}")
    except ImageError as error:
        print(f"sbom: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
