"""Owns what the engine buildah needs of Debian: its packages, and the base image.

Called by `buildah`. The base stands in for the base that the Dockerfiles name: the same suite, the
same files left out, made by mmdebstrap from the mirror that the machine's apt knows.
"""

import os
import shutil
from pathlib import Path

from images.command import ImageError, run

SUITE = "trixie"
_PACKAGES = {
    "buildah": "buildah",
    "skopeo": "skopeo",
    "mmdebstrap": "mmdebstrap",
}
"""Program and the package that brings it."""
_KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
_NO_DAEMONS = 'printf "#!/bin/sh\\nexit 101\\n" > "$1/usr/sbin/policy-rc.d"'
# As in Debian's own images: what a power cut would lose is built anew.
_NO_FSYNC = 'echo force-unsafe-io > "$1/etc/dpkg/dpkg.cfg.d/force-unsafe-io"'
_LEFT_OUT = ("doc/*", "man/*", "info/*", "locale/*", "lintian/*", "linda/*")


def missing_packages() -> list[str]:
    missing = [package for name, package in _PACKAGES.items() if shutil.which(name) is None]
    return missing if _KEYRING.exists() else [*missing, "debian-archive-keyring"]


def ensure_packages(log: Path) -> None:
    if os.geteuid() != 0:
        raise ImageError("needs root: run this as root")
    missing = missing_packages()
    if not missing:
        return
    wanted = " ".join(missing)
    if shutil.which("apt-get") is None:
        raise ImageError(f"needs {wanted}: please install them")
    print(f"installing {wanted} with apt-get", flush=True)
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    run(["apt-get", "update", "--quiet"], log=log, env=quiet)
    install = [
        "apt-get",
        "install",
        "-o",
        "DPkg::Lock::Timeout=300",
        "--quiet",
        "--yes",
        "--no-install-recommends",
    ]
    run([*install, *missing], log=log, env=quiet)


def base_command(target: Path) -> list[str]:
    """The mmdebstrap call that makes the base: apt's variant, as slim as Debian's own image."""
    excluded = [f"--dpkgopt=path-exclude=/usr/share/{pattern}" for pattern in _LEFT_OUT]
    hooks = [_NO_DAEMONS, 'chmod 755 "$1/usr/sbin/policy-rc.d"', _NO_FSYNC]
    return [
        "mmdebstrap",
        "--variant=apt",
        *excluded,
        "--dpkgopt=path-include=/usr/share/doc/*/copyright",
        *(f"--customize-hook={hook}" for hook in hooks),
        SUITE,
        str(target),
    ]


def make_base(target: Path, log: Path) -> None:
    print(f"making the base: Debian {SUITE} by mmdebstrap", flush=True)
    # A fixed date: two machines with the same packages make the same layer.
    run(base_command(target), log=log, env={"SOURCE_DATE_EPOCH": "1"})
