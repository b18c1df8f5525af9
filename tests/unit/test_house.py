"""Rules of the tests' own house."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[1]


def imported(source: str) -> set[str]:
    """Every module that a source names in an import, and what it takes from it as if a module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def holds_tests(module: str) -> bool:
    """Whether a module's name is that of a file of tests."""
    package, *parts = module.split(".")
    return package == "tests" and any(part.startswith("test_") for part in parts)


def test_nothing_is_imported_from_a_module_of_tests() -> None:
    """What several of them use lives in a module of its own."""
    wrong = {
        str(path.relative_to(TESTS)): names
        for path in sorted(TESTS.rglob("*.py"))
        if (names := [name for name in imported(path.read_text()) if holds_tests(name)])
    }
    assert wrong == {}


@pytest.mark.parametrize(
    "source",
    [
        "from tests.unit.test_run import REPORT",
        "from tests.unit import test_run",
        "import tests.unit.test_run as other",
        "def late():\n    from tests.unit.test_run import REPORT",
    ],
)
def test_an_import_from_a_module_of_tests_is_seen(source: str) -> None:
    assert any(map(holds_tests, imported(source)))
