"""Which trace a device takes, and what is said when there is none."""

from pathlib import Path

import numpy as np
import pytest

from lockstep_allocator.bandwidth import Trace, draw_link
from lockstep_api.settings import LinkSettings
from lockstep_workers.device.link import Link, build_link
from lockstep_workers.errors import InvalidJob


def traces(folder: Path, count: int = 4) -> Path:
    """A ConfigMap as it is mounted."""
    config_map = folder / "bandwidth"
    config_map.mkdir()
    for index in range(count):
        (config_map / f"{index}.csv").write_text(f"0,{index + 1}\n10,{index + 1}\n")
    return folder


def build(folder: Path, settings: LinkSettings | None, *, seed: int = 1, client: int = 0) -> Link:
    """The link of a device."""
    return build_link(settings, folder, seed=seed, client=client, origin_s=1000.0)


def test_devices_take_traces_by_seed_and_index(tmp_path: Path) -> None:
    folder, settings = traces(tmp_path), LinkSettings(trace="bandwidth", latency_s=0.1)
    taken = [build(folder, settings, client=i) for i in range(20)]
    assert len({link.mean_mbps() for link in taken}) == 4
    assert len({link.offset_s for link in taken}) == 20
    assert all(0 <= link.offset_s < 20 and link.delay_s == 0.1 for link in taken)
    again = [build(folder, settings, client=i) for i in range(20)]
    assert [link.offset_s for link in again] == [link.offset_s for link in taken]
    other = [build(folder, settings, seed=2, client=i) for i in range(20)]
    assert [link.offset_s for link in other] != [link.offset_s for link in taken]


def test_a_trace_from_a_spreadsheet_is_read(tmp_path: Path) -> None:
    folder = traces(tmp_path, 0)
    text = "\ufefft_seconds,bandwidth_mbps\r\n0,2\r\n1,2\r\n"
    (folder / "bandwidth" / "excel.csv").write_bytes(text.encode())
    assert build(folder, LinkSettings(trace="bandwidth")).mean_mbps() == pytest.approx(2.0)


def test_a_link_that_is_drawn_without_files_is_the_one_that_a_device_takes(tmp_path: Path) -> None:
    folder, settings = traces(tmp_path), LinkSettings(trace="bandwidth")
    for client in range(20):
        drawn = draw_link(seed=7, client=client, n_traces=4)
        link = build(folder, settings, seed=7, client=client)
        assert link.trace is not None
        assert link.mean_mbps() == pytest.approx(drawn.trace + 1)
        assert link.offset_s == drawn.offset_s(link.trace)


def test_links_are_drawn_as_ever() -> None:
    """Jobs that are made again with their seed see the bandwidth that they saw before."""
    for client in range(20):
        rng = np.random.default_rng(np.random.SeedSequence((3, client)))
        index, offset_s = int(rng.integers(5)), float(rng.uniform(0, 123.5))
        drawn = draw_link(seed=3, client=client, n_traces=5)
        trace = Trace.of(np.array([0.0]), np.array([1.0]), duration_s=123.5)
        assert (drawn.trace, drawn.offset_s(trace)) == (index, offset_s)


def test_a_constant_link_and_none(tmp_path: Path) -> None:
    assert build(tmp_path, LinkSettings(mbps=3.0)).mean_mbps() == pytest.approx(3.0)
    assert build(tmp_path, None) == Link()
    assert build(tmp_path, LinkSettings(latency_s=0.2)) == Link(delay_s=0.2)


def test_a_missing_or_broken_trace_is_named(tmp_path: Path) -> None:
    settings = LinkSettings(trace="bandwidth")
    with pytest.raises(InvalidJob, match="ConfigMap bandwidth is not there, or has no key"):
        build(tmp_path, settings)
    folder = traces(tmp_path, 0)
    with pytest.raises(InvalidJob, match=r"kubectl create configmap bandwidth --from-file"):
        build(folder, settings)
    (folder / "bandwidth" / "bad.csv").write_text("0,1\n1,-1")
    with pytest.raises(InvalidJob, match=r"ConfigMap bandwidth, key bad.csv, line 2: bandwidth -1"):
        build(folder, settings)
    (folder / "bandwidth" / "bad.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(InvalidJob, match=r"bandwidth trace: .*utf-8"):
        build(folder, settings)
