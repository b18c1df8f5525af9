"""Rules of the house that no linter has: few positional arguments, short files, module heads."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("operator", "workers")
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
MOST_LINES = 400
MOST_POSITIONAL = 2

CALLED_BY_POSITION = {
    ("scope", "receive", "send"): "an ASGI application: the server calls it so",
    ("match", "scope", "receive", "send"): "a route of an ASGI application",
    ("ctx", "x", "low", "high"): "torch.autograd.Function: apply() passes by position",
    ("module", "inputs", "output"): "a forward hook: torch calls it so",
}
"""Arguments of functions whose callers are not ours → why they stay positional."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.AST) -> Iterator[tuple[Function, bool]]:
    """All functions, and whether their first argument is `self` or `cls`."""
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, Function):
                static = any(ast.unparse(one) == "staticmethod" for one in child.decorator_list)
                yield child, isinstance(node, ast.ClassDef) and not static


def positional(function: Function, *, bound: bool) -> tuple[str, ...]:
    """Names of the arguments that can be given by position; `_name` (not used) is `name`."""
    arguments = [one.arg.lstrip("_") for one in (*function.args.posonlyargs, *function.args.args)]
    return tuple(arguments[1:] if bound else arguments)


def too_many(source: str) -> list[str]:
    """Functions of a module with more positional arguments than two, but for the exceptions."""
    return [
        f"line {function.lineno}: {function.name}({', '.join(names)})"
        for function, bound in functions(ast.parse(source))
        if len(names := positional(function, bound=bound)) > MOST_POSITIONAL
        and names not in CALLED_BY_POSITION
    ]


def texts() -> dict[str, str]:
    """Every module of ours: where it is → its source."""
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in MODULES}


def test_arguments_after_the_second_are_given_by_keyword() -> None:
    found = {where: too_many(source) for where, source in texts().items()}
    assert {where: functions for where, functions in found.items() if functions} == {}


def test_no_file_has_more_than_400_lines() -> None:
    lines = {where: len(source.splitlines()) for where, source in texts().items()}
    assert {where: count for where, count in lines.items() if count > MOST_LINES} == {}


def test_every_module_says_what_it_is() -> None:
    heads = {where: ast.get_docstring(ast.parse(source)) for where, source in texts().items()}
    assert [where for where, head in heads.items() if not head] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_a_folder_of_packages_is_no_package(folder: str) -> None:
    """`operator/__init__.py` would hide the standard library's `operator`."""
    assert not (ROOT / folder / "__init__.py").exists()


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("def f(a, b, c): ...", ["line 1: f(a, b, c)"]),
        ("def f(a, b, *, c): ...", []),
        ("def f(a, b, *c): ...", []),
        ("async def f(a, b, /, c): ...", ["line 1: f(a, b, c)"]),
        ("class A:\n    def f(self, a, b): ...", []),
        ("class A:\n    def f(self, a, b, c): ...", ["line 2: f(a, b, c)"]),
        ("class A:\n    @staticmethod\n    def f(a, b, c): ...", ["line 3: f(a, b, c)"]),
        ("def f(a):\n    def g(a, b, c): ...", ["line 2: g(a, b, c)"]),
        ("async def __call__(scope, receive, send): ...", []),
    ],
)
def test_what_counts_as_positional(source: str, found: list[str]) -> None:
    assert too_many(source) == found


def test_every_exception_is_needed() -> None:
    used = {
        positional(function, bound=bound)
        for path in MODULES
        for function, bound in functions(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert set(CALLED_BY_POSITION) <= used
