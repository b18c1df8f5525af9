"""Small pieces of PromQL that rules, alerts and dashboards are put together from.

Invariant: every rate is taken over a window that holds four samples of the slowest target.
"""

from collections.abc import Sequence

from lockstep_api.series import Series, labels

JOB = (labels.NAMESPACE, labels.JOB)
"""What names a FederatedJob among all series."""
OPERATOR = (labels.NAMESPACE,)
"""What names a release among the series of operators."""
WINDOW = "5m"
"""Devices of large jobs are scraped once in 60 s: a shorter window would hold too few samples."""


def picked(series: str, *matchers: str) -> str:
    """Those of a series that match all of them, such as `source="model"`."""
    return f"{series}{{{','.join(matchers)}}}" if matchers else series


def summed(expression: str, *, by: Sequence[str]) -> str:
    return f"sum by ({', '.join(by)}) ({expression})"


def largest(expression: str, *, by: Sequence[str]) -> str:
    """One value where a pod and the one that came in its place may overlap."""
    return f"max by ({', '.join(by)}) ({expression})"


def smallest(expression: str, *, by: Sequence[str]) -> str:
    """Of what several servers say, what comes first."""
    return f"min by ({', '.join(by)}) ({expression})"


def rate(counter: str, *, by: Sequence[str], over: str = WINDOW) -> str:
    """A second's share of a counter that several pods may count."""
    return summed(f"rate({counter}[{over}])", by=by)


def grown(counter: str, *, over: str = WINDOW, ago: str = "") -> str:
    """By how much each counter grew in a window that ends now, or some time ago."""
    return f"increase({counter}[{over}]{f' offset {ago}' if ago else ''})"


def increase(counter: str, *, by: Sequence[str], over: str = WINDOW, ago: str = "") -> str:
    """The same of all that several pods count."""
    return summed(grown(counter, over=over, ago=ago), by=by)


def quantile(share: float, histogram: Series, *, by: Sequence[str], over: str = WINDOW) -> str:
    """What so large a share of a histogram's observations stayed below."""
    buckets = rate(histogram.bucket, by=("le", *by), over=over)
    return f"histogram_quantile({share:g}, {buckets})"
