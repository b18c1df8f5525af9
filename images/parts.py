"""Owns which parts an image or the wheel is made of, with versions and licences.

Called by `sbom`. Pure: texts in, parts out. Licences are what the parts say of themselves, in the
short names of SPDX where these are known; a part that says nothing a program can read has none.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from email.parser import HeaderParser

DPKG_STATUS = "var/lib/dpkg/status"
_DIST_INFO = re.compile(r"(?:.*/)?[^/]+\.dist-info/METADATA")
_COPYRIGHT = "usr/share/doc/{package}/copyright"
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)")
_SPDX = {
    "expat": "MIT",
    "mit/x11": "MIT",
    "bsd-2-clause": "BSD-2-Clause",
    "bsd-3-clause": "BSD-3-Clause",
    "bsd-4-clause": "BSD-4-Clause",
    "apache-2": "Apache-2.0",
    "apache-2.0": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "mit license": "MIT",
    "bsd license": "BSD-3-Clause",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "isc": "ISC",
    "zlib": "Zlib",
    "mpl-2": "MPL-2.0",
    "artistic-2": "Artistic-2.0",
}
_GNU = re.compile(r"(A?L?GPL|GFDL)-?([123](?:\.[0-9])?)(\+|-or-later|-only)?", re.IGNORECASE)


@dataclass(frozen=True, slots=True, order=True)
class Part:
    kind: str
    """`deb` or `pypi`, as in package URLs."""
    name: str
    version: str
    licences: tuple[str, ...] = ()
    hashes: tuple[str, ...] = ()
    """SHA-256 of the archives that it may have come from."""


def debian_parts(status: str, copyrights: Mapping[str, str]) -> Iterator[Part]:
    """What dpkg has installed; `copyrights` by package."""
    for paragraph in status.split("\n\n"):
        if not paragraph.strip():
            continue
        fields = HeaderParser().parsestr(paragraph)
        if fields["Status"] == "install ok installed":
            licences = licences_in(copyrights.get(fields["Package"], ""))
            yield Part("deb", fields["Package"], fields["Version"], licences)


def licences_in(copyright_file: str) -> tuple[str, ...]:
    """The licences of a copyright file that programs can read (DEP 5); else none."""
    if not re.match(r"format:", copyright_file, re.IGNORECASE):
        return ()
    said = re.findall(r"^License:[ \t]*(\S.*?)\s*$", copyright_file, re.MULTILINE)
    names = (re.split(r",?\s+(?:or|and)\s+", line) for line in said)
    return tuple(sorted({spdx(name) for line in names for name in line}))


def spdx(name: str) -> str:
    """SPDX's short name of a licence, or the name as it is."""
    if matched := _GNU.fullmatch(name.strip()):
        family, number, later = matched[1].upper(), matched[2], matched[3]
        number = number if "." in number else f"{number}.0"
        return f"{family}-{number}-{'only' if later in (None, '-only') else 'or-later'}"
    return _SPDX.get(name.strip().lower(), name.strip())


def python_parts(metadata: Iterable[str], hashes: Mapping[str, tuple[str, ...]]) -> Iterator[Part]:
    """What wheels have brought, from their METADATA; `hashes` of the lock, by name."""
    for text in metadata:
        fields = HeaderParser().parsestr(text)
        name = normalised(fields["Name"])
        yield Part("pypi", name, fields["Version"], _python_licences(text), hashes.get(name, ()))


def _python_licences(metadata: str) -> tuple[str, ...]:
    fields = HeaderParser().parsestr(metadata)
    if expression := fields["License-Expression"]:
        return (expression,)
    classifiers = [one for one in fields.get_all("Classifier", ()) if one.startswith("License ::")]
    named = [one.rpartition(" :: ")[2] for one in classifiers if "Approved" not in one[-10:]]
    if named:
        return tuple(sorted({spdx(one) for one in named}))
    told = (fields["License"] or "").strip()
    return (spdx(told),) if told and "\n" not in told and len(told) < 100 else ()


def is_metadata(path: str) -> bool:
    """Whether this file of an image is the METADATA of a wheel that is not Debian's."""
    return not path.startswith("usr/lib/python3/") and _DIST_INFO.fullmatch(path) is not None


def package_of(path: str) -> str | None:
    """Whose copyright file this is."""
    head, _, tail = _COPYRIGHT.partition("{package}")
    if path.startswith(head) and path.endswith(tail):
        return path.removeprefix(head).removesuffix(tail)
    return None


def locked(text: str) -> dict[str, Part]:
    """What a lock pins, by name."""
    found: dict[str, Part] = {}
    for block in re.split(r"\n(?=[A-Za-z0-9])", text):
        if matched := _PINNED.match(block):
            name = normalised(matched[1])
            found[name] = Part("pypi", name, matched[2], (), tuple(sorted(_HASH.findall(block))))
    return found


def normalised(name: str) -> str:
    """A Python package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()
