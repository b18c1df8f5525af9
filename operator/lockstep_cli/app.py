"""The program: its commands, in the order in which people need them.

Each line names a function that is imported when it is called. Invariant: names, options and exit
codes are what docs/reference/cli.md, made from here, says.
"""

import os
import shlex
import sys
from typing import Annotated

import typer

from lockstep_cli.errors import MEANINGS
from lockstep_cli.frame import Frame, Lazy, program_of
from lockstep_cli.options import Context, Kubeconfig, Namespace
from lockstep_cli.release import release

_CODES = "\n".join(f"{code:>3d}  {meaning}" for code, meaning in MEANINGS.items())
_NO_FILES = ":4"
"""To kubectl: these are all, offer no names of files besides."""


class Commands(Frame):
    """Every command: where it is, and what it does in a line."""

    lazies = {  # noqa: RUF012
        "list": Lazy("lockstep_cli.commands.listing:list_jobs", "Jobs, and how far they are."),
        "describe": Lazy(
            "lockstep_cli.commands.describing:describe", "A job as a tree, and what was said of it."
        ),
        "watch": Lazy("lockstep_cli.commands.watching:watch", "Jobs as they train."),
        "devices": Lazy(
            "lockstep_cli.commands.devices:devices", "What each device is asked for, is and did."
        ),
        "logs": Lazy("lockstep_cli.commands.logs:logs", "What all pods of a job say."),
        "events": Lazy("lockstep_cli.commands.events:events", "What happened to a job."),
        "suspend": Lazy(
            "lockstep_cli.commands.suspending:suspend", "Take pods away, keep the state."
        ),
        "resume": Lazy("lockstep_cli.commands.suspending:resume", "Let a job go on."),
        "delete": Lazy("lockstep_cli.commands.deleting:delete", "Delete jobs with their volumes."),
        "model": Lazy("lockstep_cli.commands.model:model", "Fetch a job's trained model."),
        "report": Lazy("lockstep_cli.commands.report:report", "One page of a job, with pictures."),
        "dashboard": Lazy(
            "lockstep_cli.commands.dashboard:dashboard", "That page, while the job runs."
        ),
        "compare": Lazy("lockstep_cli.commands.compare:compare", "Jobs beside each other."),
        "explain-plan": Lazy(
            "lockstep_cli.commands.explain_plan:explain_plan", "Why a round was planned so."
        ),
        "doctor": Lazy("lockstep_cli.commands.doctor:doctor", "What is wrong with a cluster."),
        "validate": Lazy(
            "lockstep_cli.commands.validate:validate", "What a cluster would refuse of manifests."
        ),
        "examples": Lazy("lockstep_cli.commands.examples:examples", "Manifests to begin with."),
        "simulate": Lazy(
            "lockstep_cli.simulator:app", "Run a manifest in this process.", "simulate"
        ),
        "sweep": Lazy(
            "lockstep_cli.simulator:app", "Simulate each combination of values.", "simulate"
        ),
        "explain-cut": Lazy(
            "lockstep_cli.simulator:app", "Where a model can be cut, and why.", "simulate"
        ),
    }


app = typer.Typer(
    cls=Commands,
    help="Federated learning on Kubernetes: jobs on a cluster, and without one.",
    epilog=f"\b\nExit codes:\n{_CODES}",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"lockstep {release()}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    version: Annotated[
        bool, typer.Option("--version", help="Say which Lockstep this is.", callback=_version)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error arose.")] = False,
) -> None:
    """Options may stand before a command or after it."""


def complete_for_kubectl() -> None:
    """The program `kubectl_complete-lockstep`: kubectl asks it what to offer after its plugin."""
    words = ["lockstep", *sys.argv[1:]]
    os.environ["COMP_WORDS"] = shlex.join(words)
    os.environ["COMP_CWORD"] = str(len(words) - 1)
    os.environ["_LOCKSTEP_COMPLETE"] = "complete_bash"
    try:
        app(prog_name="lockstep")
    except SystemExit:
        typer.echo(_NO_FILES)


def main() -> None:
    """The programs `lockstep` and `kubectl-lockstep`."""
    app(prog_name=program_of(sys.argv))
