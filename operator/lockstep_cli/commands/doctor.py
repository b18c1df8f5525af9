"""`lockstep doctor`: what is wrong with a cluster, and what to do about it."""

import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated

import typer
from rich.text import Text

from lockstep_cli.cluster import Cluster
from lockstep_cli.doctor import control, fleet
from lockstep_cli.doctor.finding import Check, Finding, Seen, State
from lockstep_cli.doctor.look import look
from lockstep_cli.errors import Exit
from lockstep_cli.options import AllNamespaces, on_cluster
from lockstep_cli.release import release
from lockstep_cli.shown import console, write_json

CHECKS: tuple[Check, ...] = (
    control.kubernetes,
    control.definition,
    control.operator,
    control.rights,
    control.prometheus,
    control.clock,
    fleet.nodes,
    fleet.storage,
    fleet.images,
    fleet.jobs,
)
_GAP, _ARROW = "  ", "→ "
_NARROWEST = 30
_STYLES = {
    State.OK: "green",
    State.UNSEEN: "dim",
    State.WARNING: "yellow",
    State.WRONG: "bold red",
}


class Form(StrEnum):
    """What `-o` takes."""

    JSON = "json"


@on_cluster
def doctor(
    cluster: Cluster,
    *,
    all_namespaces: AllNamespaces = False,
    output: Annotated[
        Form | None, typer.Option("--output", "-o", help="Another form of what is printed.")
    ] = None,
) -> None:
    """Say what is wrong with a cluster and what to do: exit code 1 if no job can run there."""
    namespace = None if all_namespaces else cluster.namespace
    seen = look(cluster, namespace, now=datetime.now(UTC), ours=release())
    found = findings(seen)
    if output is Form.JSON:
        write_json([asdict(one) for one in found])
    else:
        shown = console()
        shown.print(screen(found, width=shown.width), end="", soft_wrap=True)
        shown.print(summary(found), soft_wrap=True)
    if any(one.state is State.WRONG for one in found):
        raise typer.Exit(Exit.FAILED)


def findings(seen: Seen) -> list[Finding]:
    """What all checks say, in their order."""
    return [finding for check in CHECKS for finding in check(seen)]


def screen(found: Sequence[Finding], *, width: int) -> Text:
    """A line each, and below it what to do; texts are folded at the terminal's width."""
    margins = [max(map(len, State)), max(len(one.about) for one in found)]
    indent = sum(margins) + 2 * len(_GAP)
    screen = Text()
    for one in found:
        screen.append(f"{one.state:<{margins[0]}}", style=_STYLES[one.state])
        screen.append(f"{_GAP}{one.about:<{margins[1]}}{_GAP}")
        screen.append(_folded(one.said, width - indent, indent=indent) + "\n")
        if one.todo:
            todo = _folded(one.todo, width - indent - len(_ARROW), indent=indent + len(_ARROW))
            screen.append(f"{' ' * indent}{_ARROW}{todo}\n", style="cyan")
    return screen


def _folded(text: str, width: int, *, indent: int) -> str:
    lines = textwrap.wrap(text, max(width, _NARROWEST), break_on_hyphens=False)
    return f"\n{' ' * indent}".join(lines)


def summary(found: Sequence[Finding]) -> Text:
    """All in a line."""
    counts = Counter(one.state for one in found)
    wrong, warned, unseen = (counts[s] for s in (State.WRONG, State.WARNING, State.UNSEEN))
    not_seen = f", {unseen} not seen" if unseen else ""
    warnings = f"{warned} warning{'' if warned == 1 else 's'}"
    if wrong:
        told = f"{wrong} wrong, {warnings}{not_seen}: no job can run"
        return Text(told, style=_STYLES[State.WRONG])
    if warned:
        return Text(f"{warnings}{not_seen}: jobs can run", style=_STYLES[State.WARNING])
    well = "everything that was seen is well" if unseen else "everything is well"
    return Text(f"{well}{not_seen}", style=_STYLES[State.OK])
