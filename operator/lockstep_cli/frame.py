"""The group of all commands: each is imported when it is called, and errors end here.

`app` lists the commands. Invariant: `lockstep --help` imports none of them, and what people can
mend is one line on stderr with the error's exit code; tracebacks are for --debug.
"""

import importlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import typer
from typer.core import TyperGroup

from lockstep_cli.errors import CliError, Exit
from lockstep_cli.shown import say

DEBUG = "--debug"
_TYPERS: tuple[type[BaseException], ...] = (
    typer.Exit,
    typer.Abort,
    *(one for one in typer.BadParameter.__mro__ if one.__name__ == "ClickException"),
)
"""What typer shows itself."""


@dataclass(frozen=True, slots=True)
class Lazy:
    """A command that is imported when it is called."""

    target: str
    """`module:function`, or `module:app` for a command of another typer program."""
    summary: str
    extra: str = "cli"
    """What installs all that it needs."""


class MissingExtra(CliError):
    """A package is not installed."""

    def __init__(self, command: str, extra: str, *, missing: str) -> None:
        """`missing` is the package."""
        super().__init__(
            f"{command} needs {missing}, which is not installed: pip install 'lockstep[{extra}]'"
        )


def _command(name: str, lazy: Lazy) -> Any:
    module, _, attribute = lazy.target.partition(":")
    found = getattr(importlib.import_module(module), attribute)
    if isinstance(found, typer.Typer):
        return typer.main.get_command(found).commands[name]  # type: ignore[attr-defined]
    lonely = typer.Typer(add_completion=False, rich_markup_mode=None)
    lonely.command(name, help=found.__doc__)(found)
    return typer.main.get_command(lonely)


class Frame(TyperGroup):
    """Commands that are imported late, and one place for errors."""

    lazies: dict[str, Lazy] = {}  # noqa: RUF012 - a subclass says which

    def list_commands(self, ctx: Any) -> list[str]:
        """In the order in which people need them."""
        return list(self.lazies)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """A command, imported."""
        if (lazy := self.lazies.get(cmd_name)) is None:
            return None
        try:
            return _command(cmd_name, lazy)
        except ModuleNotFoundError as error:
            if ctx.resilient_parsing:  # completion
                return None
            raise _missing(cmd_name, lazy, error=error) from error

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The list of all, without importing one."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.summary) for name, lazy in self.lazies.items()])

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """`--debug` may stand anywhere before `--`."""
        end = args.index("--") if "--" in args else len(args)
        if DEBUG in args[:end]:
            args = [DEBUG, *(one for one in args[:end] if one != DEBUG), *args[end:]]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Runs a command; what goes wrong becomes a line and an exit code."""
        try:
            done = super().invoke(ctx)
            sys.stdout.flush()
        except BrokenPipeError as error:
            _close_stdout()
            raise typer.Exit(Exit.BROKEN_PIPE) from error
        except KeyboardInterrupt as error:
            raise typer.Exit(Exit.INTERRUPTED) from error
        except _TYPERS:
            raise
        except Exception as error:
            if ctx.params.get("debug"):
                raise
            code, line = _told(_explained(error, ctx.invoked_subcommand, lazies=self.lazies))
            say(line)
            raise typer.Exit(code) from error
        return done


def _explained(error: Exception, command: str | None, *, lazies: dict[str, Lazy]) -> Exception:
    """A package that is missing is an extra's."""
    if isinstance(error, ModuleNotFoundError) and command in lazies:
        return _missing(command, lazies[command], error=error)
    return error


def _told(error: Exception) -> tuple[Exit, str]:
    """Exit code and line of an error."""
    if isinstance(error, CliError):
        return error.code, f"error: {error}"
    text = " ".join(str(error).split())
    if isinstance(error, OSError):
        return Exit.FAILED, f"error: {text}"
    return Exit.FAILED, f"error: {type(error).__name__}: {text} ({DEBUG} shows where)"


def _missing(command: str, lazy: Lazy, *, error: ModuleNotFoundError) -> MissingExtra:
    """A package that is missing is an extra's."""
    top = (error.name or "").partition(".")[0]
    return MissingExtra(f"lockstep {command}", lazy.extra, missing=top)


def _close_stdout() -> None:
    """Nobody reads any more: the interpreter's last flush must not complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def program_of(argv: Sequence[str]) -> str:
    """What people called, for usage lines."""
    return "kubectl lockstep" if "kubectl-lockstep" in os.path.basename(argv[0]) else "lockstep"
