"""A Prometheus is asked what dashboards ask: variables filled in, over HTTP or through kubectl.

Called by the renderer of pictures, and by end-to-end tests of every query. Invariant: a query that
Prometheus refuses is an error that says the query and its words, never an empty answer.
"""

import json
import re
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

Ask = Callable[[str], bytes]
"""Path and query below a Prometheus's address → what it answers."""

SERVICE = "lockstep-prometheus:9090"
"""The chart's Prometheus, as the apiserver's proxy names it."""
_TIMEOUT_S = 30
_VARIABLE = re.compile(r"\$\{(\w+)(?::\w+)?\}|\$(\w+)")


class Unanswered(Exception):
    """A Prometheus cannot be reached, or refused a query; says which."""


@dataclass(frozen=True, slots=True)
class Series:
    """What a query found: a series with its samples, oldest first."""

    labels: Mapping[str, str]
    points: Sequence[tuple[float, float]]
    """(unix time in s, value)."""

    def named(self, legend: str) -> str:
        """The legend of a panel's query, filled in from the labels."""
        return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda m: self.labels.get(m[1], ""), legend)


@dataclass(frozen=True, slots=True)
class Span:
    """Which time is drawn."""

    begin_s: float
    end_s: float
    step_s: float


def at_address(url: str) -> Ask:
    """A Prometheus that can be reached at this address."""

    def ask(path: str) -> bytes:
        try:
            with urllib.request.urlopen(url.rstrip("/") + path, timeout=_TIMEOUT_S) as answer:
                body: bytes = answer.read()
                return body
        except urllib.error.HTTPError as error:
            return error.read()
        except OSError as error:
            raise Unanswered(f"no Prometheus answers at {url}: {error}") from error

    return ask


@contextmanager
def through_kubectl(namespace: str, *, kubectl: Sequence[str]) -> Iterator[Ask]:
    """The chart's Prometheus in a namespace, through the apiserver's proxy of services.

    `kubectl` is the command with its options; its own proxy runs meanwhile on a free port.
    """
    command = [*kubectl, "proxy", "--port=0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as proxy:
        assert proxy.stdout is not None
        assert proxy.stderr is not None
        try:
            serving = re.search(r"127\.0\.0\.1:\d+", proxy.stdout.readline())
            if serving is None:
                raise Unanswered(f"{' '.join(command)}: {proxy.stderr.read().strip()}")
            service = f"/api/v1/namespaces/{namespace}/services/{SERVICE}/proxy"
            yield at_address(f"http://{serving[0]}{service}")
        finally:
            proxy.terminate()


def filled(text: str, values: Mapping[str, str]) -> str:
    """A query with the values of its variables; what is no variable of ours stays."""
    return _VARIABLE.sub(lambda found: values.get(found[1] or found[2], found[0]), text)


def newest(ask: Ask, query: str, *, at_s: float | None = None) -> list[Series]:
    """What a query finds now, or at a time."""
    asked = {"query": query} | ({} if at_s is None else {"time": f"{at_s:.3f}"})
    found = _data(ask, "query", asked=asked)
    if found["resultType"] == "scalar":
        return [Series({}, [_point(found["result"])])]
    return [Series(one["metric"], [_point(one["value"])]) for one in found["result"]]


def over(ask: Ask, query: str, *, span: Span) -> list[Series]:
    """What a query finds in a span of time."""
    asked = {
        "query": query,
        "start": f"{span.begin_s:.3f}",
        "end": f"{span.end_s:.3f}",
        "step": f"{span.step_s:g}",
    }
    found = _data(ask, "query_range", asked=asked)["result"]
    return [Series(one["metric"], [_point(sample) for sample in one["values"]]) for one in found]


def label_values(ask: Ask, query: str) -> list[str]:
    """What a variable's `label_values(selector, label)` offers."""
    match = re.fullmatch(r"label_values\((.*),\s*(\w+)\)", query, re.DOTALL)
    if match is None:
        raise ValueError(f"{query!r} is not label_values(selector, label)")
    found: list[str] = _data(ask, f"label/{match[2]}/values", asked={"match[]": match[1]})
    return found


def _data(ask: Ask, route: str, *, asked: Mapping[str, str]) -> Any:
    body = ask(f"/api/v1/{route}?{urlencode(asked)}")
    try:
        answer = json.loads(body)
    except ValueError as error:
        raise Unanswered(f"{route}: no answer of a Prometheus: {body[:200]!r}") from error
    if answer.get("status") != "success":
        raise Unanswered(f"{asked}: {answer.get('error', answer.get('message'))}")
    return answer["data"]


def _point(sample: Sequence[Any]) -> tuple[float, float]:
    return float(sample[0]), float(sample[1])
