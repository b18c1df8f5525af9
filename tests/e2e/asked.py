"""All that people are shown of Prometheus, asked of a real one: what finds nothing is listed.

Dashboards (panels and variables), examples of the catalogue, recording rules and alerts. A query
may find nothing only for a reason: the job's mode has no such series, or `RARE` says why.
"""

import json
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

from lockstep_api import series
from lockstep_api.series import Owner, Series
from lockstep_api.spec import Mode
from lockstep_monitoring import alerts, rules
from lockstep_monitoring.asking import Ask, filled, label_values, newest, through_kubectl
from lockstep_monitoring.dashboards import json_files
from lockstep_monitoring.drawing import board
from tests.cluster import api
from tests.e2e.polled import until
from tests.support.patience import PATIENCE_S

RARE: Mapping[Series, str] = {
    series.RECONCILE_ERRORS: "a label for each error: none is there until one happens",
    series.PRIVACY_EPSILON: "only jobs with spec.privacy have one",
    series.RESIZE_FAILURES: "a label for each reason: none is there until one happens",
}
"""Series that a healthy job does not have."""

BY_NAME = {name: one for one in series.ALL for name in one.names}
RECORDED = {one.name: one.expression for found in rules.GROUPS.values() for one in found}
ALERTS = [one for found in alerts.GROUPS.values() for one in found]


@dataclass(frozen=True, slots=True)
class Asked:
    """A query, and who asks it."""

    where: str
    query: str

    def series(self) -> set[Series]:
        """Those of the catalogue that it is made of, through recording rules, too."""
        text = self.query
        for name, expression in RECORDED.items():
            text = text.replace(name, expression)
        return {BY_NAME[name] for name in re.findall(r"\w+", text) if name in BY_NAME}


def everything(namespace: str, job: str) -> Iterator[Asked]:
    """Every query, with a job's values for the variables of dashboards."""
    values = values_of(namespace, job)
    for read in dashboards():
        for figure in read.figures:
            for target in figure.targets:
                where = f"{read.title}, {figure.title}, {target.legend}"
                yield Asked(where, filled(target.expr, values))
    for one in series.ALL:
        yield Asked(f"example of {one.name}", one.example)
    for name, expression in RECORDED.items():
        yield Asked(f"rule {name}", expression)
        yield Asked(f"what rule {name} recorded", name)
    for alert in ALERTS:
        for each in Asked("", alert.expression).series():
            yield Asked(f"series of alert {alert.name}", each.names[0])


def dashboards() -> list[board.Board]:
    return [board.read(json.loads(text)) for text in json_files.files().values()]


def values_of(namespace: str, job: str) -> dict[str, str]:
    """Of all variables of all dashboards."""
    return {
        "namespace": namespace,
        "job": job,
        "device": ".*",
        "tier": "device|edge|cloud",
        "release": ".*",
        "__rate_interval": "1m",
    }


def excused(one: Asked, mode: Mode) -> str:
    """Why a query may find nothing; empty: it may not."""
    there = {each for owner in Owner for each in series.of(owner, mode=mode)}
    if mode is Mode.FEDERATED:
        there -= set(series.of(Owner.EDGE))
    for each in sorted(one.series(), key=lambda found: found.name):
        if each not in there:
            return f"a job of mode {mode.value} has no {each.name}"
        if each in RARE:
            return f"{each.name}: {RARE[each]}"
    return ""


def of_edges(one: Asked) -> bool:
    """Whether a query is of what only jobs with edges have."""
    return bool(excused(one, Mode.FEDERATED)) and not excused(one, Mode.SPLIT)


def assert_all_find_data(namespace: str, job: str) -> None:
    """Asks everything of a federated job until it is found; what is excused is asked once.

    Alerts are asked, too; they find something when they fire, which this does not wait for.
    """
    asked = list(everything(namespace, job))
    with _prometheus(namespace) as ask:
        _found(ask, [one for one in asked if excused(one, Mode.FEDERATED)])
        _found(ask, [Asked(one.name, one.expression) for one in ALERTS])
        assert_variables_offer(ask, namespace, job)
        _wait_for(ask, [one for one in asked if not excused(one, Mode.FEDERATED)])


def assert_what_edges_tell_is_found(namespace: str, job: str) -> None:
    """Asks, of a job of mode split, what the other one is excused from."""
    with _prometheus(namespace) as ask:
        _wait_for(ask, [one for one in everything(namespace, job) if of_edges(one)])


def assert_variables_offer(ask: Ask, namespace: str, job: str) -> None:
    """What can be chosen is there, as soon as Prometheus has it, and the job is among it."""
    values = values_of(namespace, job)
    for read in dashboards():
        for name, query in read.variables.items():
            offers = partial(_offers, ask, filled(query, values), wanted=values[name])
            until(offers, f"{read.title}: {values[name]} cannot be chosen for {name}: {query}")


def _offers(ask: Ask, query: str, *, wanted: str) -> bool:
    offered = label_values(ask, query)
    return bool(offered) and wanted in (".*", *offered)


def _prometheus(namespace: str) -> AbstractContextManager[Ask]:
    kubectl = [str(api.tools() / "kubectl"), f"--kubeconfig={api.kubeconfig()}"]
    return through_kubectl(namespace, kubectl=kubectl)


def _found(ask: Ask, asked: Sequence[Asked]) -> list[bool]:
    """Whether each query finds something now."""
    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(lambda one: bool(newest(ask, one.query)), asked))


def _wait_for(ask: Ask, asked: Sequence[Asked]) -> None:
    """Rates need two samples, and rules their turn."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = _found(ask, asked)
        asked = [one for one, there in zip(asked, found, strict=True) if not there]
        if not asked:
            return
        listed = "\n".join(f"{one.where}: {one.query}" for one in asked)
        assert time.monotonic() < deadline, f"{len(asked)} queries find nothing:\n{listed}"
        time.sleep(1)
