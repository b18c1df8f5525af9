"""How far a file has come, for people who wait for it: a bar on stderr, on a terminal only."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lockstep_cli.shown import console
from lockstep_cli.volume import Progress, silent


@contextmanager
def showing(name: str) -> Iterator[Progress]:
    """What to tell of each piece of a file that comes; the bar goes when it is done."""
    if not sys.stderr.isatty():
        yield silent
        return
    from rich.progress import (  # noqa: PLC0415 - only who looks at it waits for it
        BarColumn,
        DownloadColumn,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.progress import Progress as Bar  # noqa: PLC0415

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bar(*columns, console=console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, size: bar.update(task, completed=done, total=size)
