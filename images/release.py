"""Owns how a release is made: `make release VERSION=x.y.z`, into build/release.

All is built from an export of the last commit, in which the version is set. Invariant: the working
tree gets the new version, and build/release the new files, after everything was built and tried;
a release that fails changes neither.
"""

import argparse
import gzip
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from images.command import ImageError
from images.recipe import RECIPES, ROOT
from images.versions import CHANGELOG, PATHS, check_version, day_of, stamped

EXAMPLE = "docs/examples/fashion-mnist.yaml"
SUMS = "SHA256SUMS"


@dataclass(frozen=True, slots=True)
class Making:
    """A release that is being made."""

    source: Path
    """The export, with the version in it."""
    out: Path
    version: str
    commit_s: int
    """When the commit was made, in seconds since 1970: the time of all files in archives."""

    @property
    def scratch(self) -> Path:
        return self.source.parent


Step = Callable[[Making], None]


def run(words: Sequence[str | Path], *, cwd: Path, **environment: str) -> str:
    """What a program prints; without PYTHONPATH, so that it finds what is installed only."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    try:
        done = subprocess.run(
            [str(word) for word in words],
            cwd=cwd,
            env=kept | environment,
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        raise ImageError(f"needs {words[0]}: it is not installed") from None
    if done.returncode != 0:
        last = "\n  ".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise ImageError(f"{' '.join(map(str, words))} failed ({done.returncode}):\n  {last}")
    return done.stdout


def _uv() -> Path:
    return Path(sys.executable).parent / "uv"


def python_packages(making: Making) -> None:
    """Wheel and sdist."""
    words = (_uv(), "build", "--no-build-isolation", "--python", sys.executable, "--out-dir")
    run(
        (*words, making.out, making.source),
        cwd=making.source,
        SOURCE_DATE_EPOCH=str(making.commit_s),
    )
    (making.out / ".gitignore").unlink(missing_ok=True)
    [sdist] = making.out.glob("*.tar.gz")
    repack(sdist, making.commit_s)


def wheel_tried(making: Making) -> None:
    """The wheel runs in an environment that has nothing else: the CLI with its extra alone."""
    [wheel] = making.out.glob("*.whl")
    place = making.scratch / "tried"
    place.mkdir()
    environment = place / "venv"
    run((_uv(), "venv", "--python", sys.executable, environment), cwd=place)
    programs = environment / "bin"
    install = (_uv(), "pip", "install", "--python", programs / "python")
    pins = ("--constraints", making.source / "requirements" / "dev.lock")
    run((*install, *pins, f"{wheel}[cli]"), cwd=place)
    run((programs / "lockstep", "--help"), cwd=place)
    run((programs / "lockstep", "validate", making.source / EXAMPLE), cwd=place)
    run((*install, *pins, f"{wheel}[operator]"), cwd=place)
    run((programs / "lockstep-operator", "--help"), cwd=place)


def chart(making: Making) -> None:
    """The chart's package."""
    words = ("helm", "package", making.source / "charts" / "lockstep", "--destination", making.out)
    run(words, cwd=making.source)
    [package] = making.out.glob("*.tgz")
    repack(package, making.commit_s)


def images(making: Making) -> None:
    """Each image as a tar archive of its OCI layout."""
    builder = (sys.executable, "images/build.py")
    run(builder, cwd=making.source)
    folders = run((*builder, "paths"), cwd=making.source).split()
    for name, folder in zip(RECIPES, folders, strict=True):
        archive(
            Path(folder), making.out / f"lockstep-{name}-{making.version}.oci.tar", making.commit_s
        )


def parts(making: Making) -> None:
    """What the images and the wheel are made of, and under which licences."""
    words = (sys.executable, "-m", "images.sbom", "--out", making.out, "--time", making.commit_s)
    run([str(word) for word in words], cwd=making.source)


def archive(folder: Path, target: Path, time_s: int) -> None:
    """A tar archive that depends on the names and contents of the files alone."""
    with tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as made:
        for path in sorted(folder.rglob("*")):
            entry = made.gettarinfo(path, str(path.relative_to(folder)))
            with path.open("rb") if path.is_file() else nullcontext() as content:
                made.addfile(_plain(entry, time_s), content)


def repack(packed: Path, time_s: int) -> None:
    """The same of a .tar.gz that another program has made."""
    made = io.BytesIO()
    with (
        tarfile.open(packed) as old,
        gzip.GzipFile(filename="", mode="wb", fileobj=made, mtime=time_s) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.USTAR_FORMAT) as new,
    ):
        for entry in sorted(old, key=lambda one: one.name):
            new.addfile(_plain(entry, time_s), old.extractfile(entry) if entry.isfile() else None)
    packed.write_bytes(made.getvalue())


def _plain(entry: tarfile.TarInfo, time_s: int) -> tarfile.TarInfo:
    """An entry without what depends on who made it, and when."""
    entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = time_s, 0, 0, "", ""
    entry.mode = 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    entry.pax_headers = {}
    return entry


def checksums(making: Making) -> None:
    """SHA256SUMS, as sha256sum --check reads it."""
    lines = [f"{_digest(path)}  {path.name}\n" for path in sorted(making.out.iterdir())]
    (making.out / SUMS).write_text("".join(lines))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


STEPS: tuple[Step, ...] = (python_packages, wheel_tried, chart, images, parts, checksums)


def release(version: str, *, root: Path, day: str, steps: Sequence[Step] = STEPS) -> Path:
    """Makes a release of the last commit; the folder with its files.

    Raises:
        ImageError: the version is none, something is not committed, or a step failed.
    """
    check_version(version)
    partial = root / "build" / "release.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        making = _exported(root, partial, version=version, day=day)
        for step in steps:
            began = time.monotonic()
            step(making)
            print(f"{step.__name__}: {time.monotonic() - began:.1f} s", flush=True)
        finished = root / "build" / "release"
        shutil.rmtree(finished, ignore_errors=True)
        making.out.rename(finished)
        for path in PATHS:
            shutil.copyfile(making.source / path, root / path)
        return finished
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _exported(root: Path, partial: Path, *, version: str, day: str) -> Making:
    """The last commit with the version in it, beside the tree."""
    source, out = partial / "source", partial / "out"
    source.mkdir(parents=True)
    out.mkdir()
    packed = partial / "commit.tar"
    run(("git", "archive", "--output", packed, "HEAD"), cwd=root)
    run(("tar", "--extract", "--file", packed, "--directory", source), cwd=root)
    day = day_of((root / CHANGELOG).read_text(), version) or day
    new = stamped({path: (source / path).read_text() for path in PATHS}, version, day=day)
    _refuse_changes(root, new)
    for path, text in new.items():
        (source / path).write_text(text)
    seconds = run(("git", "log", "-1", "--format=%ct"), cwd=root)
    return Making(source, out, version, int(seconds))


def _refuse_changes(root: Path, new: dict[str, str]) -> None:
    """Nothing may differ from the last commit but what a release of this version has written."""
    status = run(("git", "status", "--untracked-files=all", "--porcelain", "-z"), cwd=root).split(
        "\0"
    )
    changed = [entry[3:] for entry in status if entry]
    written = [path for path, text in new.items() if (root / path).read_text() == text]
    if odd := [path for path in changed if path not in written]:
        raise ImageError(f"not committed: {', '.join(odd[:5])}; commit or stash that first")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m images.release", description=__doc__)
    parser.add_argument("version", help="three numbers, as in 0.2.0")
    version = parser.parse_args().version
    try:
        folder = release(version, root=ROOT, day=f"{datetime.now(UTC):%Y-%m-%d}")
    except ImageError as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    for path in sorted(folder.iterdir()):
        print(f"{path.stat().st_size / 1e6:9.2f} MB  {path.relative_to(ROOT)}")
    print(f"the tree says {version} now: commit it, and tag that commit v{version}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
