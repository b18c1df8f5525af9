"""Writes the reference of the command lines (docs/reference/cli.md) from the programs themselves.

Called by `python -m tests.docs`; `programs` and `commands_of` also tell the tests of the docs which
commands and options there are. Invariant: a hidden option is on no page.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import typer

from lockstep_allocator.cli import app as allocator
from lockstep_cli.app import app as lockstep
from lockstep_cli.errors import MEANINGS
from lockstep_operator.app import command as operator

HEAD = """# Command lines

Generated from the programs by `make docs-reference`: do not edit. `--help` after any of these says
the same. `kubectl lockstep` is the same program as `lockstep`, where kubectl finds
`kubectl-lockstep` on the `PATH`.
"""
CODES_HEAD = """
## Exit codes of `lockstep`

| code | meaning |
| --- | --- |
"""


def _alone(function: Callable[..., None]) -> typer.Typer:
    """A program of one command."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None)
    app.command()(function)
    return app


APPS = {
    "lockstep": lockstep,
    "lockstep-allocator": allocator,
    "lockstep-operator": _alone(operator),
}


@cache
def programs() -> Mapping[str, Any]:
    """Each program's root command, by name."""
    return {name: typer.main.get_command(app) for name, app in APPS.items()}


@cache
def commands_of(program: str) -> Mapping[str, Any]:
    """The commands of a program by name, imported; "" is the program itself."""
    root = programs()[program]
    context = root.make_context(program, [], resilient_parsing=True)
    listed = root.list_commands(context) if hasattr(root, "list_commands") else ()
    return {"": root} | {name: root.get_command(context, name) for name in listed}


def options_of(command: Any) -> set[str]:
    """Names of the options of a command."""
    return {name for one in command.params for name in (*one.opts, *one.secondary_opts)}


def reference() -> str:
    """The page."""
    lines = [HEAD.rstrip("\n")]
    for program in programs():
        for name, command in commands_of(program).items():
            lines += _section(f"{program} {name}".strip(), command)
    lines.append(CODES_HEAD.rstrip("\n"))
    lines += (f"| {code:d} | {meaning} |" for code, meaning in MEANINGS.items())
    return "\n".join(lines) + "\n"


def _section(title: str, command: Any) -> Iterator[str]:
    """A command: what it does, how it is called, what may be said."""
    context = command.make_context(title, [], resilient_parsing=True)
    yield f"\n## `{title}`\n"
    yield " ".join((command.help or "").replace("\b", "").split())
    yield "\n```text"
    yield " ".join((title, *command.collect_usage_pieces(context)))
    yield "```\n"
    records = [one.get_help_record(context) for one in command.params if not one.hidden]
    yield "| argument or option | what it does |\n| --- | --- |"
    for said, help_text in (record for record in records if record):
        yield f"| `{said.replace('|', ', ')}` | {_cell(help_text)} |"


def _cell(text: str) -> str:
    """A text in a table: one line, nothing taken for Markdown."""
    plain = " ".join(text.split()).replace("<", "&lt;")
    for mark in ("|", "*", "_", "["):
        plain = plain.replace(mark, f"\\{mark}")
    return plain
