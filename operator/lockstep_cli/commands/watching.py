"""`lockstep watch`: jobs as they train, until they have ended.

On a terminal a screen that changes in place, elsewhere a line a round. Invariant: with --wait the
exit code is the result, so that scripts can go by it.
"""

import time
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import typer
from rich.console import Console, RenderableType
from rich.live import Live
from rich.text import Text

from lockstep_cli.cluster import JOBS, Cluster
from lockstep_cli.errors import CliError, Exit
from lockstep_cli.facts import Job
from lockstep_cli.feed import Ended, Feed, Heard
from lockstep_cli.follow import Change, Selection, follow
from lockstep_cli.jobs import find_job, its_pods, this_job
from lockstep_cli.measured import Measured
from lockstep_cli.options import AllNamespaces, JobOrNone, PrometheusNamespace, a_time, on_cluster
from lockstep_cli.screen import Size, line_of, many_jobs, one_job
from lockstep_cli.shown import console, out, say
from lockstep_cli.watched import History, Watched, figures_as_they_come

_TICK_S = 0.5
_JOBS, _PODS, _FIGURES = "jobs", "pods", "figures"


@on_cluster
def watch(
    cluster: Cluster,
    *,
    job: JobOrNone = None,
    all_namespaces: AllNamespaces = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="End with the result: 0 if all completed, else 1.")
    ] = False,
    timeout: Annotated[float | None, a_time("--timeout", help="End with exit code 6 after")] = None,
    prometheus_namespace: PrometheusNamespace = None,
) -> None:
    """A job as it trains, or all of them: rounds, accuracy, time left, devices.

    One job is watched until it completed or failed, all of them until Ctrl-C; with --wait until
    each completed, failed or was refused or deleted.
    """
    if job is not None:
        find_job(cluster, job)  # a name that is not there is told with those that are
    watched, on = Watched(), console()
    with closing(Feed(cluster)) as feed:
        namespace = None if all_namespaces else cluster.namespace
        of = Selection(JOBS, namespace) if job is None else this_job(cluster, job)
        feed.add(_JOBS, partial(follow, cluster, of))
        if on.is_terminal:
            _add_figures(feed, watched, job=job, said=prometheus_namespace)
        end_s = None if timeout is None else time.monotonic() + timeout
        watcher = Watcher(feed, watched, single=job is not None, wait=wait, end_s=end_s)
        if on.is_terminal:
            watcher.on_screen(on)
        else:
            watcher.in_lines()
    _result(watched, wait=wait)


def _add_figures(feed: Feed, watched: Watched, *, job: str | None, said: str | None) -> None:
    cluster = feed.cluster
    if job is not None:
        feed.add(_PODS, partial(follow, cluster, its_pods(cluster, job)))
    single = job is not None
    feed.add(_FIGURES, partial(figures_as_they_come, cluster, watched, said=said, single=single))


def _result(watched: Watched, *, wait: bool) -> None:
    failures = watched.failures()
    if not wait:
        for line in (f"{job.name} was deleted" for job in watched.gone):
            say(line)
        return
    if failures:
        raise CliError("; ".join(failures))
    for known in watched.jobs.values():
        told = known.job.conditions()
        complete = next((one["message"] for one in told if one["type"] == "Complete"), "")
        say(f"{known.job.name} completed: {complete}".rstrip(": "))


@dataclass(slots=True)
class Watcher:
    """Takes from the feed and shows, until the end."""

    feed: Feed
    watched: Watched
    single: bool
    wait: bool
    end_s: float | None

    def in_lines(self) -> None:
        """A line for each round and each new phase."""
        while not self._done():
            for job in self._hear(self._patience_s(None)):
                out(line_of(job))

    def on_screen(self, on: Console) -> None:
        """A picture that changes in place, and stays at the end."""
        with Live(
            console=on, auto_refresh=False, transient=False, vertical_overflow="crop"
        ) as live:
            while not self._done():
                self._hear(self._patience_s(_TICK_S))
                while self.feed.waiting and not self._done():
                    self._hear(0.0)
                live.update(self._picture(Size(on.width, on.height)), refresh=True)

    def _picture(self, size: Size) -> RenderableType:
        now_s = time.monotonic()
        if not self.single:
            return many_jobs(self.watched.seen(now_s), size)
        seen = self.watched.one(now_s)
        return Text("…", "dim") if seen is None else one_job(seen, size)

    def _done(self) -> bool:
        if self.end_s is not None and time.monotonic() >= self.end_s and not self._over():
            raise CliError("not within --timeout", Exit.TIMEOUT)
        return self._over()

    def _over(self) -> bool:
        watched = self.watched
        if self.wait:
            return watched.ended
        return self.single and watched.finished

    def _patience_s(self, tick_s: float | None) -> float | None:
        if self.end_s is None:
            return tick_s
        left_s = max(self.end_s - time.monotonic(), 0.0)
        return left_s if tick_s is None else min(tick_s, left_s)

    def _hear(self, patience_s: float | None) -> list[Job]:
        """Takes in one thing; the jobs of which there is news."""
        match self.feed.next(patience_s):
            case Ended(_, error):
                raise error or CliError("a watch ended")
            case Heard("jobs", Change() as change):
                if change.trouble and not self.watched.trouble:
                    say(f"{change.trouble}; trying again", style="yellow")
                return self.watched.hear_jobs(change, time.monotonic())
            case Heard("pods", Change(objects=objects)):
                self.watched.pods = objects
            case Heard(_, History() as history):
                self.watched.hear_history(history)
            case Heard(_, Measured() as measured):
                self.watched.measured = measured
        return []
