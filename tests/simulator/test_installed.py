"""What the simulator needs is what its extra installs."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OURS = """
import sys
import lockstep_simulator.cli, lockstep_simulator.sweep
ours = [one for name, one in sys.modules.items() if name.startswith("lockstep_")]
print(*(one.__file__ for one in ours), sep="\\n")
"""
_WITH_PYDANTIC = ("pydantic-core",)


def plain(requirement: str) -> str:
    """The name of a requirement, as all spellings of it have it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", requirement)[0]).lower()


def imported(source: str) -> Iterator[str]:
    """The packages that a module imports, wherever it does."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (one.name.partition(".")[0] for one in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


def test_all_that_is_imported_is_in_the_extra() -> None:
    done = subprocess.run(
        [sys.executable, "-c", OURS], capture_output=True, text=True, check=True, cwd=ROOT
    )
    files = done.stdout.split()
    assert any(one.endswith("lockstep_simulator/sweep.py") for one in files)
    named = {name for one in files for name in imported(Path(one).read_text(encoding="utf-8"))}
    others = {name for name in named if name not in sys.stdlib_module_names}
    distributions = packages_distributions()
    found = {plain(one) for name in others for one in distributions.get(name, [])}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["simulate"]]
    assert found - {"lockstep"} <= {*map(plain, wanted), *_WITH_PYDANTIC}
