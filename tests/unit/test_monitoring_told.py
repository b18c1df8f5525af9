"""What of a page of a job's pod is kept: what its owner exports, nothing that it makes up."""

import re
from collections.abc import Iterator, Mapping

import pytest
from prometheus_client import CollectorRegistry

from lockstep_api import series
from lockstep_api.series import Owner
from lockstep_monitoring import told_file
from lockstep_workers.cloud.metrics import CloudMetrics
from lockstep_workers.device.metrics import DeviceMetrics

POD = {"namespace": "n", "pod": "p", "job": "j", "instance": "10.0.0.1:8081"}
DEVICE = POD | {"tier": "device", "client": "d-0"}
EDGE = POD | {"tier": "edge", "edge": "e-0"}
CLOUD = POD | {"tier": "cloud"}
CARRIED, STEPS = series.LINK_MBITS.queried, series.STEPS.queried


def kept(name: str, labels: Mapping[str, str]) -> dict[str, str] | None:
    """The labels of a sample that is kept, as Prometheus relabels; None: it is not."""
    found = {"__name__": name, **labels}
    for rule in told_file.relabelings():
        pattern = re.compile(str(rule["regex"]))
        if rule["action"] == "labelkeep":
            found = {label: value for label, value in found.items() if pattern.fullmatch(label)}
            continue
        sources = rule["sourceLabels"]
        assert rule["action"] == "keep"
        assert isinstance(sources, list)
        if not pattern.fullmatch(";".join(found.get(label, "") for label in sources)):
            return None
    return {label: value for label, value in found.items() if label != "__name__"}


def exported(registry: CollectorRegistry) -> Iterator[tuple[str, dict[str, str]]]:
    for metric in registry.collect():
        for sample in metric.samples:
            if not sample.name.endswith("_created"):
                yield sample.name, dict(sample.labels)


@pytest.mark.parametrize(
    ("registry", "pod"),
    [
        (DeviceMetrics("j", "d-0").registry, DEVICE),
        (CloudMetrics("j", groups=["a", "b"]).registry, CLOUD),
    ],
)
def test_what_pods_export_is_kept(registry: CollectorRegistry, pod: dict[str, str]) -> None:
    told = [*exported(registry)]
    assert told
    for name, labels in told:
        assert kept(name, labels | pod) == labels | pod


@pytest.mark.parametrize("owner", [Owner.DEVICE, Owner.EDGE, Owner.CLOUD])
def test_each_series_of_the_catalogue_is_kept_with_all_that_it_can_say(owner: Owner) -> None:
    pod = {Owner.DEVICE: DEVICE, Owner.EDGE: EDGE, Owner.CLOUD: CLOUD}[owner]
    for one in series.of(owner):
        for value in one.values or ("v",):
            labels = dict.fromkeys(one.labels, "v") | {one.labels[-1]: value} | pod
            for name in one.names:
                for bound in _bounds(one, name):
                    assert kept(name, labels | bound) == labels | bound


def _bounds(one: series.Series, name: str) -> list[dict[str, str]]:
    if not name.endswith("_bucket"):
        return [{}]
    return [{"le": str(float(bound))} for bound in one.buckets] + [{"le": "+Inf"}]


@pytest.mark.parametrize("label", ["x", "exported_client", "container", "__x", "le2"])
def test_labels_of_a_pages_own_are_dropped(label: str) -> None:
    assert kept(STEPS, DEVICE | {label: "1"}) == DEVICE


@pytest.mark.parametrize(
    ("name", "pod", "made_up"),
    [
        (CARRIED, DEVICE, {"direction": "1"}),
        (CARRIED, DEVICE, {"direction": "up", "reason": "1"}),
        (CARRIED, DEVICE, {"direction": "up;"}),
        (CARRIED, DEVICE, {}),
        (STEPS, DEVICE, {"le": "1"}),
        (STEPS, DEVICE, {"edge": "e-1"}),
        (STEPS, CLOUD, {}),
        (series.EDGE_STEP_SECONDS.bucket, EDGE, {"le": "3"}),
        (series.EDGE_STEP_SECONDS.bucket, EDGE, {"le": "0x05"}),
        (series.EDGE_STEP_SECONDS.count, EDGE, {"le": "5"}),
        (series.ROUND.queried, CLOUD, {"client": "d-0"}),
    ],
)
def test_series_with_what_the_catalogue_does_not_know_are_dropped(
    name: str, pod: dict[str, str], made_up: dict[str, str]
) -> None:
    assert kept(name, pod | made_up) is None
