"""Small pieces of PromQL that rules, alerts and dashboards are put together from.

Invariant: every rate is taken over a window that holds four samples of the slowest target.
"""

from collections.abc import Sequence

JOB = ("namespace", "job")
"""What names a FederatedJob among all series."""
WINDOW = "5m"
"""Devices of large jobs are scraped once in 60 s: a shorter window would hold too few samples."""
LONG_WINDOW = "1h"


def picked(series: str, *matchers: str) -> str:
    """Those of a series that match all of them, such as `source="model"`."""
    return f"{series}{{{','.join(matchers)}}}" if matchers else series


def summed(expression: str, *, by: Sequence[str]) -> str:
    return f"sum by ({', '.join(by)}) ({expression})"


def largest(expression: str, *, by: Sequence[str]) -> str:
    """One value where a pod and the one that came in its place may overlap."""
    return f"max by ({', '.join(by)}) ({expression})"


def rate(counter: str, *, by: Sequence[str], over: str = WINDOW) -> str:
    """A second's share of a counter that several pods may count."""
    return summed(f"rate({counter}[{over}])", by=by)


def increase(counter: str, *, by: Sequence[str], over: str = WINDOW) -> str:
    return summed(f"increase({counter}[{over}])", by=by)


def mean(histogram: str, *, by: Sequence[str], over: str = WINDOW) -> str:
    """What a histogram saw on average; nothing where it saw nothing."""
    count = rate(f"{histogram}_count", by=by, over=over)
    return f"{rate(f'{histogram}_sum', by=by, over=over)} / ({count} > 0)"


def quantile(share: float, histogram: str, *, by: Sequence[str], over: str = WINDOW) -> str:
    """What so large a share of a histogram's observations stayed below."""
    buckets = rate(f"{histogram}_bucket", by=("le", *by), over=over)
    return f"histogram_quantile({share:g}, {buckets})"
