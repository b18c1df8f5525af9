"""Debian packages that tests need: whoever asks first installs what the machine lacks."""

import os
import shutil
import subprocess
from collections.abc import Callable

from tests.cluster.locks import locked
from tests.support.patience import PATIENCE_S


def ensure(missing: Callable[[], list[str]], *, why: str) -> None:
    """Installs the packages that are missing, by apt-get, one process at a time.

    Raises:
        RuntimeError: it cannot be done here; says what to install, and why.
    """
    if missing():
        with locked("apt", "to install packages"):  # others may have done it meanwhile
            _install(missing(), why=why)


def _install(packages: list[str], *, why: str) -> None:
    if not packages:
        return
    words = " ".join(packages)
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise RuntimeError(f"not installed: {words}: install them, {why}")
    quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    lock = ("-o", f"DPkg::Lock::Timeout={PATIENCE_S:.0f}", "--quiet")
    subprocess.run(["apt-get", "update", *lock], check=True, env=quiet)
    install = ["apt-get", "install", *lock, "--yes", "--no-install-recommends", *packages]
    subprocess.run(install, check=True, env=quiet)
