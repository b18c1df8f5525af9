"""Prometheus's own tool that checks and plays rules: this machine's, or unpacked into the cache.

Nothing is installed: Debian's package `prometheus` is fetched by apt and only unpacked, so that no
service comes with it.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from images.command import cache_folder
from tests.cluster.command import run
from tests.cluster.errors import ClusterError
from tests.cluster.locks import locked

PACKAGE = "prometheus"
Json = dict[str, Any]


def promtool() -> Path:
    """The program; raises as `program`."""
    return program("promtool")


@cache
def program(name: str) -> Path:
    """A program of Prometheus's package: promtool, or prometheus itself.

    Raises:
        ClusterError: it is not there, and apt cannot fetch it.
    """
    if found := shutil.which(name):
        return Path(found)
    kept = cache_folder() / "tools" / name
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with (
            locked("apt", "to fetch packages"),
            tempfile.TemporaryDirectory(dir=kept.parent) as scratch,
        ):
            _unpacked(Path(scratch), name).rename(kept)
    return kept


def _unpacked(folder: Path, name: str) -> Path:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise ClusterError(f"no {name}: install Prometheus's package by this system's manager")
    try:
        _download(folder)
    except ClusterError:
        run("apt-get", "-q", "update", timeout_s=600)  # no lists yet, or old ones
        _download(folder)
    (package,) = folder.glob("*.deb")
    run("dpkg-deb", "--extract", package, folder)
    return folder / "usr" / "bin" / name


def _download(folder: Path) -> None:
    """apt fetches into the folder that it is called in."""
    words = ["sh", "-c", 'cd "$1" && exec apt-get -q download "$2"', "sh", str(folder), PACKAGE]
    run(*words, timeout_s=600)


def checked(rules: Path) -> None:
    """`promtool check rules`: fails with what it says."""
    run(promtool(), "check", "rules", "--lint-fatal", rules)


def played(rules: Path, tests: Sequence[Json], *, folder: Path, every: str = "30s") -> None:
    """`promtool test rules`: plays series through the rules; fails with what came out otherwise.

    Args:
        rules: the file.
        tests: `input_series` and what is expected of them, as promtool has it.
        folder: where the file of tests may be written.
        every: how often rules are evaluated.
    """
    told = {"rule_files": [os.fspath(rules)], "evaluation_interval": every, "tests": [*tests]}
    file = folder / "tests.yaml"
    file.write_text(yaml.safe_dump(told, sort_keys=False))
    done = subprocess.run(
        [promtool(), "test", "rules", file],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
