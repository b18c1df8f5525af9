"""`lockstep dashboard`: a job's page on this machine, which follows the job while it runs."""

import webbrowser
from dataclasses import dataclass, field
from typing import Annotated

import typer

from lockstep_cli.cluster import Cluster, Json
from lockstep_cli.drawn import figures, live_page
from lockstep_cli.jobs import find_job
from lockstep_cli.options import Job, on_cluster
from lockstep_cli.records import Records
from lockstep_cli.runs import records_of, with_records
from lockstep_cli.serving import HOST, Kept, server_of
from lockstep_cli.shown import out, say
from lockstep_pictures.model import JobFigures

PORT = 8321


@on_cluster
def dashboard(
    cluster: Cluster,
    job: Job,
    *,
    port: Annotated[
        int, typer.Option(help="On this machine; 0: any that is free.", min=0, max=65535)
    ] = PORT,
    open_: Annotated[bool, typer.Option("--open", help="Show it in the browser.")] = False,
    image: Annotated[
        str | None, typer.Option(help="What reads the volume of a job without pods.")
    ] = None,
) -> None:
    """Serve a job's page on this machine; it follows the job while it runs. Ctrl-C ends it."""
    followed = Followed(cluster, job, image)
    kept = Kept(followed.page, say)
    kept.first()
    with server_of(kept, port) as server:
        address = f"http://{HOST}:{server.server_port}/"
        out(address)
        say("Ctrl-C ends it")
        if open_:
            webbrowser.open(address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("ended")


@dataclass(slots=True)
class Followed:
    """A job whose page is made again and again."""

    cluster: Cluster
    name: str
    image: str | None
    _records: Records = field(default_factory=Records)
    _read_at: Json = field(default_factory=dict)
    """What the job's status said when its records were read."""
    _drawn: JobFigures | None = None
    _page: tuple[str, bool] = ("", False)

    def page(self) -> tuple[str, bool]:
        """The page as it is now, and whether it changes no more.

        Raises:
            CliError: the job cannot be read.
        """
        body = find_job(self.cluster, self.name).body
        status = body.get("status") or {}
        mark = {key: status.get(key) for key in ("round", "phase")}
        if mark != self._read_at:
            self._records = records_of(self.cluster, body, image=self.image)
            self._read_at = mark
        drawn = figures(with_records(body, self._records))
        if drawn != self._drawn:
            self._page, self._drawn = live_page(drawn), drawn
        return self._page
