"""Options that every command on a cluster has, and the cluster that they name.

`on_cluster` adds them to a command. Invariant: they mean what they mean to kubectl, and may stand
before the command or after it.
"""

import functools
import inspect
import re
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer

from lockstep_cli.cluster import Cluster, Where, connect
from lockstep_cli.completion import contexts, job_names, namespaces

_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86_400}


def seconds(text: str) -> float:
    """A time as kubectl takes it."""
    parts = re.fullmatch(r"(?:(\d+(?:\.\d+)?)([smhd]?))+", text.strip())
    if parts is None:
        raise typer.BadParameter(f"{text!r} is no time: write 90, 90s, 5m, 1h30m or 2d")
    found = re.findall(r"(\d+(?:\.\d+)?)([smhd]?)", text)
    return sum(float(number) * _SECONDS[unit] for number, unit in found)


def a_time(*names: str, help: str) -> Any:
    """An option that takes a time."""
    return typer.Option(*names, parser=seconds, metavar="<time>", help=f"{help}: 90s, 5m, 1h30m.")


Kubeconfig = Annotated[
    Path | None,
    typer.Option("--kubeconfig", help="A file instead of $KUBECONFIG and ~/.kube/config."),
]
Context = Annotated[
    str | None,
    typer.Option("--context", help="A context of the kubeconfig.", autocompletion=contexts),
]
Namespace = Annotated[
    str | None,
    typer.Option("--namespace", "-n", help="Instead of the context's.", autocompletion=namespaces),
]
AllNamespaces = Annotated[
    bool, typer.Option("--all-namespaces", "-A", help="All namespaces that you may read.")
]
PrometheusNamespace = Annotated[
    str | None,
    typer.Option("--prometheus-namespace", help="Where Prometheus is; looked for when empty."),
]
Job = Annotated[str, typer.Argument(help="The job's name.", autocompletion=job_names)]
JobOrNone = Annotated[
    str | None,
    typer.Argument(
        help="The job's name; all of the namespace when empty.", autocompletion=job_names
    ),
]
Jobs = Annotated[list[str], typer.Argument(help="Names of jobs.", autocompletion=job_names)]

_ADDED = {"namespace": Namespace, "context": Context, "kubeconfig": Kubeconfig}


def on_cluster(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command whose first argument is the cluster, which -n, --context and --kubeconfig name."""

    @functools.wraps(command)
    def called(*, ctx: typer.Context, **given: Any) -> Any:
        said = {name: given.pop(name) for name in _ADDED}
        with closing(connect(where_of(ctx, said))) as cluster:
            return command(cluster, **given)

    first, *own = inspect.signature(command, eval_str=True).parameters.values()
    assert first.annotation is Cluster
    kind = inspect.Parameter.KEYWORD_ONLY
    own = [one.replace(kind=kind) for one in own]
    context = inspect.Parameter("ctx", kind, annotation=typer.Context)
    added = [
        inspect.Parameter(name, kind, default=None, annotation=annotation)
        for name, annotation in _ADDED.items()
    ]
    called.__signature__ = inspect.Signature([context, *own, *added])  # type: ignore[attr-defined]
    called.__annotations__ = {one.name: one.annotation for one in (context, *own, *added)}
    return called


def where_of(ctx: Any, said: dict[str, Any]) -> Where:
    """What was said after the command, before what was said before it."""
    root = ctx.find_root().params
    return Where(**{name: said.get(name) or root.get(name) for name in _ADDED})
