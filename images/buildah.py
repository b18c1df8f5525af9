"""Owns buildah's storage under our cache, and how buildah and skopeo are called on it.

Called by `engines`. The storage is ours alone: the user's own images stay untouched, and deleting
the cache folder forgets everything. Works without systemd, without a registry, in a chroot.
"""

import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from images import debian
from images.command import answers, run

BASE = "localhost/debian:trixie-slim"
ENVIRONMENT = {"BUILDAH_ISOLATION": "chroot"}


@dataclass(frozen=True, slots=True)
class Storage:
    folder: Path
    driver: str = "overlay"

    @property
    def root(self) -> Path:
        return self.folder / self.driver

    @property
    def run_root(self) -> Path:
        """Counts of mounts: true only until the machine restarts, so one folder a boot."""
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return self.folder / f"run-{boot[:8]}"

    def buildah(self, command: str, *arguments: str) -> list[str]:
        where = ["--root", str(self.root), "--runroot", str(self.run_root)]
        return ["buildah", *where, "--storage-driver", self.driver, command, *arguments]

    def skopeo_source(self, reference: str) -> str:
        return f"containers-storage:[{self.driver}@{self.root}+{self.run_root}]{reference}"


def export_command(storage: Storage, reference: str, *, folder: Path) -> list[str]:
    """skopeo, since it leaves layers uncompressed and skips those that the layout holds already."""
    target = f"oci:{folder}:{reference}"
    return [
        "skopeo",
        "copy",
        "--quiet",
        "--dest-oci-accept-uncompressed-layers",
        storage.skopeo_source(reference),
        target,
    ]


def overlay_works(folder: Path) -> bool:
    """Whether overlay mounts work here: not on top of another overlay, as in most containers."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        for name in ("lower", "upper", "work", "merged"):
            (Path(scratch) / name).mkdir()
        options = f"lowerdir={scratch}/lower,upperdir={scratch}/upper,workdir={scratch}/work"
        mount = ["mount", "-t", "overlay", "overlay", "-o", options, f"{scratch}/merged"]
        return answers(["unshare", "--mount", *mount])


def open_storage(folder: Path) -> Storage:
    return Storage(folder, "overlay" if overlay_works(folder) else "vfs")


def release(storage: Storage) -> None:
    """Undo the mount that buildah leaves on its own folder: the cache could not be deleted."""
    answers(["umount", str(storage.root / "overlay")])


def has_image(storage: Storage, reference: str) -> bool:
    return answers(storage.buildah("inspect", "--type", "image", reference))


def prepare(storage: Storage, log: Path, *, refresh: bool) -> None:
    debian.ensure_packages(log)
    # What a build that was interrupted left, mounted: the storage is ours, and we are alone on it.
    run(storage.buildah("rm", "--all"), log=log)
    if refresh or not has_image(storage, BASE):
        _import_base(storage, log)


def _import_base(storage: Storage, log: Path) -> None:
    storage.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=storage.folder) as scratch:
        archive = Path(scratch) / "base.tar"
        debian.make_base(archive, log)
        container = subprocess.run(
            storage.buildah("from", "scratch"), capture_output=True, text=True, check=True
        ).stdout.strip()
        run(storage.buildah("add", "--quiet", container, str(archive), "/"), log=log)
        # A fixed date: the same packages give the same image, and the layers on top stay cached.
        run(storage.buildah("commit", "--rm", "--timestamp", "0", container, BASE), log=log)
