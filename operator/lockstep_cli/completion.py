"""What shells offer for a job, a namespace, a context: asked of the cluster, within a second.

Options and arguments name these functions. Invariant: they never fail, say nothing and keep nobody
waiting: whoever presses the tab key wants neither errors nor a pause.
"""

import threading
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any

from lockstep_cli.cluster import JOBS, NAMESPACES, Where, connect, contexts_of

PATIENCE_S = 1.0


def job_names(ctx: Any, incomplete: str) -> list[str]:
    """Jobs of the namespace that was named so far."""

    def found() -> Iterable[str]:
        with closing(connect(_where(ctx))) as cluster:
            listing = cluster.list(JOBS, cluster.namespace, timeout_s=PATIENCE_S)
        return (item["metadata"]["name"] for item in listing.items)

    return in_time(found, incomplete)


def namespaces(ctx: Any, incomplete: str) -> list[str]:
    """Namespaces of the cluster."""

    def found() -> Iterable[str]:
        with closing(connect(_where(ctx))) as cluster:
            listing = cluster.list(NAMESPACES, timeout_s=PATIENCE_S)
        return (item["metadata"]["name"] for item in listing.items)

    return in_time(found, incomplete)


def contexts(ctx: Any, incomplete: str) -> list[str]:
    """Contexts of the kubeconfig."""
    return in_time(lambda: contexts_of(_where(ctx)), incomplete)


def in_time(
    found: Callable[[], Iterable[str]], incomplete: str, *, patience_s: float | None = None
) -> list[str]:
    """What fits what was typed; nothing when it cannot be had, or not soon."""
    offered: list[str] = []

    def look() -> None:
        try:
            offered.extend(sorted(one for one in found() if one.startswith(incomplete)))
        except Exception:  # noqa: BLE001 - see the head
            return

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(PATIENCE_S if patience_s is None else patience_s)
    return [] if thread.is_alive() else offered


def _where(ctx: Any) -> Where:
    """What was typed before."""
    said = {**ctx.find_root().params, **{k: v for k, v in ctx.params.items() if v}}
    return Where(said.get("namespace"), said.get("context"), said.get("kubeconfig"))
