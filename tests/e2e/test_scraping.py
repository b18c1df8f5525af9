"""A real Prometheus with the chart's configuration: what strangers and neighbours tell it in vain.

It runs on this machine, beside the list that an operator serves and pages of pods.
"""

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from lockstep_api import names, series
from lockstep_api.names import Role
from lockstep_operator.core.insight import ClientInsight
from lockstep_operator.core.model import JobKey, Manifest
from lockstep_operator.discovery import target_list
from lockstep_operator.telemetry import Prometheus
from tests.cluster import api
from tests.e2e.running import CHART
from tests.support.kube import FakeKube, cluster_of, cluster_with, job_body
from tests.support.pages import Page, served
from tests.support.patience import PATIENCE_S
from tests.support.prometheus import Asked, prometheus
from tests.support.targets import pod_of, put, set_of

pytestmark = pytest.mark.cluster

Json = dict[str, Any]
VICTIM, NEIGHBOUR = JobKey("lab", "digits"), JobKey("mallory", "own")
JSON = {"content-type": "application/json"}
WORK, STEPS = series.CPU_SECONDS.queried, series.STEPS.queried
BYTES, SECONDS = series.UPLOAD_BYTES.queried, series.UPLOAD_SECONDS.queried
HONEST = "".join(
    f'{name}{{job="digits",client="fast-0"}} {value}\n'
    for name, value in ((WORK, 7), (STEPS, 70), (BYTES, 1_000_000), (SECONDS, 4))
)
OF_VICTIM = 'namespace="lab",job="digits",pod="digits-device-fast-0",tier="device",client="fast-0"'
FORGED = (
    "".join(
        f"{name}{{{whose}}} {value}\n"
        for name, value in (
            (WORK, "1e305"),
            (STEPS, "1e-300"),
            (BYTES, "1e305"),
            (SECONDS, "1"),
            (series.ACCURACY.queried, "0.999"),
        )
        for whose in (OF_VICTIM, f'exported_{OF_VICTIM},instance="victim"')
    )
    + 'lockstep_jobs{phase="Failed"} 5\nstranger_total 1\n'
)


def job_of(kube: FakeKube, key: JobKey) -> Manifest:
    body = job_body()
    body["metadata"] |= {"name": key.name, "namespace": key.namespace}
    return put(kube, body)


def chart_config(operators: str) -> Json:
    """The chart's own, but for where operators are; it asks them and pods without delay."""
    text = api.helm("template", "lockstep", str(CHART), "--namespace", "system")
    made = [one for one in yaml.safe_load_all(text) if one]
    (found,) = (one["data"] for one in made if one["kind"] == "ConfigMap"
                and one["metadata"]["name"] == "lockstep-prometheus")  # fmt: skip
    config: Json = yaml.safe_load(found["prometheus.yml"])
    del config["rule_files"]
    jobs, _ = config["scrape_configs"]
    (discovery,) = jobs["http_sd_configs"]
    discovery |= {"url": f"http://{operators}{names.TARGETS_ROUTE}", "refresh_interval": "200ms"}
    config["scrape_configs"] = [jobs]
    return config


@dataclass(frozen=True, slots=True)
class Scene:
    """Pods of two namespaces' jobs, the operator's list of them, and Prometheus."""

    pages: list[Page]
    """The victim's, and those of the neighbour's pods."""
    list: Page
    asked: Asked

    def read(self) -> None:
        """All were read from here on, and what they said is kept: the second time one is asked,
        the first answer was worked through."""
        for page in self.pages:
            page.wait(2)


@contextmanager
def scene(folder: Path, *neighbours: Page) -> Iterator[Scene]:
    """What the neighbour's pods answer is a test's; the victim's tells its figures."""
    kube = cluster_with()
    state, listed = cluster_of(kube), Page(headers=JSON)
    pages = [Page(HONEST), *neighbours]
    with ExitStack() as stack:
        for page in (*pages, listed):
            stack.enter_context(served(page))
        sets = [put(kube, set_of(job_of(kube, key), Role.DEVICE, group="fast", replicas=9))
                for key in (VICTIM, NEIGHBOUR)]  # fmt: skip
        kube.put(pod_of(sets[0], ip="10.0.0.0"))
        for ordinal in range(len(neighbours)):
            kube.put(pod_of(sets[1], ordinal, ip=f"10.0.0.{ordinal + 1}"))
        listed.body = target_list(state)
        for number, page in enumerate(pages):
            pod = f'"10.0.0.{number}:{names.METRICS_PORT}"'
            listed.body = listed.body.replace(pod, f'"{page.address}"')
        with prometheus(chart_config(listed.address), folder) as asked:
            yield Scene(pages, listed, asked)


async def test_a_page_speaks_for_its_own_pod_and_tier_only(cluster: Path, tmp_path: Path) -> None:
    """Not for another namespace's job, nor as the cloud pod of its own, nor as the operator."""
    with scene(tmp_path, Page(FORGED)) as found:
        found.read()
        (mine,) = found.asked.until(f'{WORK}{{namespace="lab"}}')
        labels = dict(item.split("=") for item in OF_VICTIM.replace('"', "").split(","))
        address = {"instance": found.pages[0].address}
        assert mine == ({"__name__": WORK} | labels | address, 7.0)
        told = found.asked.until(f'{{namespace="mallory",__name__=~"{WORK}|{BYTES}"}}', series=2)
        whose = {(one["job"], one["client"], one["pod"]) for one, _ in told}
        assert whose == {("own", "fast-0", "own-device-fast-0")}
        assert not any(label.startswith("exported_") for label in found.asked.labels())
        kept = {name for name in found.asked.names("__name__") if not name.startswith("scrape_")}
        assert kept == {"up", WORK, STEPS, BYTES, SECONDS}
        planner = Prometheus(found.asked.url, deadline_s=PATIENCE_S)
        assert await planner.insight(VICTIM, clients=9) == {"fast-0": ClientInsight(mean_mbps=2.0)}
        await planner.close()


def test_a_page_has_no_more_series_than_the_catalogue(cluster: Path, tmp_path: Path) -> None:
    """Whatever labels, values and times it makes up, and whatever else it tells of."""
    carried = series.LINK_MBITS.queried
    lines = [
        line
        for n in range(1000)
        for line in (
            f'{carried}{{direction="up",x="{n}"}} {n}',
            f'{carried}{{direction="{n}"}} {n}',
            f'{carried}{{direction="up",reason="{n}"}} {n}',
            f'{carried}{{direction="up"}} {n} {1_700_000_000_000 + n}',
            f'{series.STEPS.queried}{{container="{n}"}} {n}',
        )
    ]
    with scene(tmp_path, Page("\n".join([*lines, ""]))) as found:
        found.read()
        told = found.asked.until(f'{{namespace="mallory",__name__=~"{carried}|{STEPS}"}}', series=2)
        assert len(told) == 2
        names = {*series.labels.OF_PODS, "instance", "direction", "__name__"} - {"edge"}
        assert found.asked.labels() == names
        ((_, samples),) = found.asked.query(
            f'count_over_time({carried}{{namespace="mallory"}}[10m])'
        )
        assert samples <= found.pages[1].asked


def test_pages_beyond_the_limits_are_not_read(cluster: Path, tmp_path: Path) -> None:
    """Too many bytes; and nobody is sent elsewhere, to where the pod itself may not go."""
    beyond = ["# " + "x" * (4 << 20) + "\n"]
    with served(Page(HONEST)) as inside:
        moved = Page(status=302, headers={"location": f"http://{inside.address}/admin"})
        with scene(tmp_path, *map(Page, beyond), moved) as found:
            found.read()
            found.asked.until('up{namespace="mallory"} == 0', series=len(beyond) + 1)
            found.asked.until('up{namespace="lab"} == 1')
            assert found.asked.query(f'{WORK}{{namespace="mallory"}}') == []
        assert inside.asked == 0


def test_the_last_list_holds_while_no_operator_answers(cluster: Path, tmp_path: Path) -> None:
    with scene(tmp_path, Page(HONEST)) as found:
        found.read()
        last = found.list.body
        found.list.status, found.list.body = 503, json.dumps({"message": "ask again"})
        found.list.wait(3)
        found.read()
        assert len(found.asked.until("up == 1", series=2)) == 2
        left = [one for one in json.loads(last) if one["labels"]["job"] != "own"]
        found.list.status, found.list.body = 200, json.dumps(left)
        found.asked.until('up{namespace="lab"} unless on () up{namespace="mallory"}')
