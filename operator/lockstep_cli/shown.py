"""How results and remarks reach people: tables, JSON, YAML and names on stdout, the rest on stderr.

Every command prints through it. Invariants: colour and screens are for terminals alone (and not
with NO_COLOR); what is piped is never cut to a width; no text from the cluster, whoever wrote it,
moves a cursor or colours a terminal.
"""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.measure import Measurement
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from lockstep_api.text import UNFIT

Json = dict[str, Any]
PIPED_WIDTH = 10_000
"""Columns where nobody sees a width."""
NOTHING = "–"
_PADDING = re.compile(r" +((?:\x1b\[0m)?)$", re.MULTILINE)
_LEAST_FOLDED = 40
"""Columns of a terminal below which folding makes a tower of words."""


class Output(StrEnum):
    """What `-o` takes."""

    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


OutputOption = Annotated[
    Output | None, typer.Option("--output", "-o", help="Another form of what is printed.")
]


_HARMLESS = "\N{REPLACEMENT CHARACTER}"
_BROKEN = re.compile(r"[^\n\t]")


def harmless(text: Text) -> Text:
    """The same, as long, without characters that a terminal takes for orders."""
    plain = UNFIT.sub(lambda found: _BROKEN.sub(_HARMLESS, found[0]), text.plain)
    if plain == text.plain:
        return text
    made = text.copy()
    made.plain = plain
    return made


class _Console(Console):
    """Tells of a reader that went away, where rich would end the process; texts are harmless."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Also called for each text in a table or a tree."""
        fit = harmless(renderable) if isinstance(renderable, Text) else renderable
        yield from super().render(fit, options)

    def render_str(self, text: str, **given: Any) -> Text:
        """A plain text is one, too."""
        return harmless(super().render_str(text, **given))

    def on_broken_pipe(self) -> None:
        """Called within an except clause."""
        raise  # noqa: PLE0704 - the one that rich handles


def console(*, stderr: bool = False) -> Console:
    """For a command's results, or for what is said beside them."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPED_WIDTH
    return _Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)


def say(line: str, *, style: str = "") -> None:
    """One line beside the results; errors are red."""
    style = style or ("red" if line.startswith("error:") else "")
    console(stderr=True).print(Text(line, style=style), soft_wrap=True)


def out(line: str = "") -> None:
    """One line of the results, however long."""
    console().print(Text(line), soft_wrap=True)


def table(columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *, gap: int = 3) -> Table:
    """As kubectl's tables: no lines, capital heads."""
    made = Table(
        box=None, pad_edge=False, show_edge=False, header_style="bold", padding=(0, gap, 0, 0)
    )
    for column in columns:
        made.add_column(column.upper(), no_wrap=True)
    for row in rows:
        made.add_row(*row)
    return made


def natural_width(made: Table) -> int:
    """How wide a table is if nothing is cut."""
    wide = Console(width=PIPED_WIDTH)
    return Measurement.get(wide, wide.options, made).maximum


def show_table(
    columns: Sequence[str], rows: Iterable[Sequence[str | Text]], *, fold: bool = False
) -> None:
    """Prints a table, whole: one that is wider than the terminal goes on in the next line.

    `fold`: that the last column does so below itself, if there is room.
    """
    made, on = table(columns, rows), console()
    width, last = natural_width(made), made.columns[-1]
    if fold and on.is_terminal and width > on.width:
        longest = max((cell_len(str(cell)) for cell in last.cells), default=0)
        if on.width - (width - longest) >= _LEAST_FOLDED:
            last.no_wrap, last.overflow, width = False, "fold", on.width
    on.width = width
    with on.capture() as captured:
        on.print(made)
    text = captured.get()
    sys.stdout.write(_PADDING.sub(r"\1", text))


def write_json(content: Any) -> None:
    """JSON as kubectl indents it."""
    text = json.dumps(content, indent=4, ensure_ascii=False)
    sys.stdout.write(UNFIT.sub(_as_json, text) + "\n")


def _as_json(found: re.Match[str]) -> str:
    """A character that JSON does not escape, but a terminal takes for an order."""
    return found[0] if found[0] == "\n" else f"\\u{ord(found[0]):04x}"


def write_yaml(content: Any) -> None:
    """YAML in the order of the object."""
    import yaml  # noqa: PLC0415 - only who asks for it waits for it

    sys.stdout.write(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def write_objects(objects: Sequence[Json], output: Output, *, single: bool = False) -> None:
    """Objects of the cluster as JSON, YAML or names; many are a List, as with kubectl."""
    if output is Output.NAME:
        for one in objects:
            kind, _, _ = one["apiVersion"].partition("/")
            sys.stdout.write(f"{one['kind'].lower()}.{kind}/{one['metadata']['name']}\n")
        return
    content = objects[0] if single else {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    (write_json if output is Output.JSON else write_yaml)(content)
