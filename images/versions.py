"""Owns where Lockstep's version stands, and what a release makes of these files.

Called by `release`, and by the test that all places agree. Pure: texts in, texts out. Invariant: a
file is changed at its version and nowhere else.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from images.command import ImageError

VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
CHANGELOG = "CHANGELOG.md"
_UNRELEASED = "## [Unreleased]"


@dataclass(frozen=True, slots=True)
class Place:
    path: str
    before: str
    """Regular expression of what stands before the version; only there it is the version."""


_LABEL = r'org\.opencontainers\.image\.version="'
_IMAGE = r"lockstep\.local/[a-z-]+:"
PLACES = (
    Place("pyproject.toml", r'^version = "'),
    Place("charts/lockstep/Chart.yaml", r"^version: "),
    Place("charts/lockstep/Chart.yaml", r"^appVersion: "),
    Place("images/operator.Dockerfile", _LABEL),
    Place("images/worker.Dockerfile", _LABEL),
    Place("images/prometheus.Dockerfile", _LABEL),
    Place("operator/lockstep_operator/config.py", _IMAGE),
    Place("docs/examples/own-model/Dockerfile", _IMAGE),
    Place("docs/examples/own-model/job.yaml", _IMAGE),
    Place("tests/e2e/faulty/Dockerfile", _IMAGE),
)
PATHS = tuple(dict.fromkeys((*(place.path for place in PLACES), CHANGELOG)))
"""The files that a release changes."""


def check_version(version: str) -> None:
    if not VERSION.fullmatch(version):
        raise ImageError(f"VERSION={version!r} is no version: say three numbers, as in 0.2.0")


def found(place: Place, text: str) -> str:
    """The version that stands in a place."""
    match = re.search(f"{place.before}({VERSION.pattern})", text, re.MULTILINE)
    if match is None:
        raise ImageError(f"{place.path}: there is no version behind {place.before}")
    return match[1]


def stamped(texts: Mapping[str, str], version: str, *, day: str) -> dict[str, str]:
    """The files of a release, by path: with its version, and its day in the changelog."""
    made = dict(texts)
    for place in PLACES:
        found(place, made[place.path])
        pattern = f"({place.before}){VERSION.pattern}"
        made[place.path] = re.sub(pattern, rf"\g<1>{version}", made[place.path], flags=re.MULTILINE)
    made[CHANGELOG] = _dated(made[CHANGELOG], version, day=day)
    return made


def _dated(changelog: str, version: str, *, day: str) -> str:
    """What was unreleased belongs to the version; a version that is there already stays."""
    if f"## [{version}]" in changelog:
        return changelog
    _, heading, rest = changelog.partition(f"{_UNRELEASED}\n")
    if not heading or not rest.partition("\n## ")[0].strip():
        raise ImageError(f"{CHANGELOG} says nothing of {version}: write it below {_UNRELEASED}")
    return changelog.replace(heading, f"{heading}\n## [{version}] - {day}\n", 1)


def day_of(changelog: str, version: str) -> str | None:
    """The day that a version has in the changelog."""
    match = re.search(rf"(?m)^## \[{re.escape(version)}\] - (\S+)$", changelog)
    return match[1] if match else None
