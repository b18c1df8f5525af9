"""Which Lockstep this program is of.

Pages, `doctor` and --version say it. Invariant: a checkout that is not installed says what its
pyproject.toml says.
"""

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_CHECKOUT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def release() -> str:
    """Its version."""
    try:
        return version("lockstep")
    except PackageNotFoundError:
        found: str = tomllib.loads(_CHECKOUT.read_text(encoding="utf-8"))["project"]["version"]
        return found
