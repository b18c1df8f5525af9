"""Traces: every format, what is refused and where, the cumulative axis, splits."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_allocator.bandwidth import InvalidTrace
from lockstep_allocator.generate import write_traces
from lockstep_allocator.traces import (
    TraceSet,
    parse,
    read_traces,
    reversed_in_time,
    split_by_trace,
)
from tests.allocator.fleets import random_traces, trace

GHENT = "1453900000000 1000 51.0 3.7 125000 1000\n1453900001000 2000 51.0 3.7 250000 1000\n"


@pytest.mark.parametrize(
    ("text", "mbps"),
    [
        ("t_seconds,bandwidth_mbps\n0,1\n1,2.5\n", [1, 2.5]),
        ("0 1\n1 2.5\n", [1, 2.5]),
        ("100\n600\n700\n1500\n", [0.036, 0.024]),
        ("1\n", [12]),
        ("200\n" * 10, [0.6]),
        ("0\n1\n2\n", [18]),
        ("".join(f"{t}\n" for t in range(1, 2001)), [12, 12]),
        ("1000\n3000\n", [0.012, 0, 0.012]),
        ("\ufefft_seconds,bandwidth_mbps\r\n0,1\r\n1,2.5\r\n", [1, 2.5]),
        ("\ufeff0,1\n1,2.5\n", [1, 2.5]),
        ("\ufeff0 1\n1 2.5\n", [1, 2.5]),
        ("\ufeff1\n", [12]),
        ("t_seconds;bandwidth_mbps\r\n0;1\r\n1;2,5\r\n", [1, 2.5]),
        ("0;1,5\n0,5;2\n", [1.5, 2]),
        ("t_seconds\tbandwidth_mbps\r\n0\t1\r\n1\t2.5\r\n", [1, 2.5]),
        ('"t_seconds","bandwidth_mbps"\n"0","1"\n"1","2.5"\n', [1, 2.5]),
        ("T_Seconds, Bandwidth_Mbps,,\n0,1,,\n1,2.5,,\n,,,\n", [1, 2.5]),
        (GHENT, [1, 2]),
        ("0,0\n1,3\n", [0, 3]),
    ],
    ids=[
        "csv",
        "pensieve",
        "mahimahi",
        "mahimahi of 1 ms",
        "mahimahi of 200 ms",
        "mahimahi from 0 on",
        "mahimahi to the last millisecond",
        "mahimahi with a gap",
        "byte order mark",
        "byte order mark without header",
        "pensieve with byte order mark",
        "mahimahi with byte order mark",
        "semicolons",
        "decimal commas",
        "tabs",
        "quotes",
        "empty cells",
        "ghent",
        "zeros are outages",
    ],
)
def test_a_format_is_known_by_its_content(text: str, mbps: list[float]) -> None:
    assert parse(text, source="x").mbps == pytest.approx(mbps)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("t_seconds,bandwidth_mbps\n0,1\n1,nan\n", "x, line 3: 1,nan is not finite"),
        ("0,1\n1,-2\n", "x, line 2: bandwidth -2 is negative"),
        ("0,1\n2,1\n1,1\n", "x, line 3: 1 s is not after 2 s: sort the rows"),
        ("0 1\n1 nan\n", "x, line 2: 1 nan is not finite"),
        ("0 1\n1\n", "x, line 2: 1 columns, expected 2"),
        ("5\n3\n", "x, line 2: 3 ms is before the line above"),
        ("1 2 3\n", "x, line 1: '1 2 3' is none of"),
        ("1.5\n2\n", "x, line 1: 1.5 is no whole millisecond"),
        ("0\n0\n", "x ends at 0 ms: are these milliseconds?"),
        ("1\n" * 100_000, "Mbit/s, too much: mind the units"),
        ("1 1 0 0 1e300 1e-9\n", "too much: mind the units"),
        ("1 1 0 0 5 5e-324\n", "x, line 1: 4.94066e-324 ms is too little, or too much"),
        ("1 1 0 0 5 1e-4\n", "x, line 1: 0.0001 ms is too little, or too much"),
        ("1 1 0 0 5 1e14\n", "x, line 1: 1e+14 ms is too little, or too much"),
        ("2e9\n", "x ends at 2e+09 ms: are these milliseconds?"),
        (GHENT.replace("250000", "-1"), "x, line 2: bytes or milliseconds are negative"),
        ("0,0\n1,0\n", "bandwidth 0 throughout"),
        ("", "x, line 1: '' is none of"),
    ],
)
def test_a_wrong_line_is_named(text: str, message: str) -> None:
    with pytest.raises(InvalidTrace) as caught:
        parse(text, source="x")
    assert message in str(caught.value)


def test_a_gap_holds_the_bandwidth_before_it() -> None:
    gap = parse("0,4\n1,2\n10,4\n11,4\n", source="x")
    assert gap.bits_until(10) == pytest.approx(4e6 + 9 * 2e6)


def test_a_tree_is_read_by_family(tmp_path: Path) -> None:
    write_traces(tmp_path, traces=2, seconds=60, seed=3)
    (tmp_path / "INDEX.csv").write_text("not,a,trace\n")
    told: list[str] = []
    found = read_traces(tmp_path, tell=told.append)
    assert told == [
        f"1 files under {tmp_path} are no traces: {tmp_path}/INDEX.csv, line 1: 'not,a,trace' is "
        "none of: t_seconds,bandwidth_mbps (csv); one millisecond a line (Mahimahi); seconds and "
        "Mbit/s (Pensieve); six columns (Ghent)"
    ]
    assert len(found) == 6
    assert {one.family for one in found} == {"generated_3g", "generated_lte", "generated_5g"}
    assert {one.family for one in read_traces(tmp_path, exclude=["*5g"])} == {
        "generated_3g", "generated_lte",
    }  # fmt: skip
    assert len(read_traces(tmp_path, include=["*lte"])) == 2
    with pytest.raises(InvalidTrace, match="no trace files"):
        read_traces(tmp_path, include=["none"])
    with pytest.raises(InvalidTrace, match="is not a folder"):
        read_traces(tmp_path / "nowhere")


def test_a_mahimahi_file_repeats_after_its_last_line() -> None:
    read = parse("200\n" * 10, source="x")
    assert read.duration_s == pytest.approx(0.2)
    assert read.bits_until(60.0) == pytest.approx(0.6e6 * 60)
    assert parse("1\n", source="x").bits_until(2.0) == pytest.approx(24e6)


NAMES = [
    "test_fcc_trace_1171_http---www.yahoo.com_0", "test_fcc_trace_1171_http---www.yahoo.com_1",
    "Verizon-LTE-short.up", "a trace.dat", ".hidden", "12mbps",
]  # fmt: skip


def test_files_are_read_whatever_they_are_called(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / name).write_text("0 1.5\n1 2\n")
    told: list[str] = []
    found = read_traces(tmp_path, tell=told.append)
    assert sorted(one.name for one in found) == sorted({*NAMES, "Verizon-LTE-short"} - {NAMES[2]})
    assert told == []


OTHERS = {
    "README.md": b"# Traces\n\nTwo of them.\n",
    "picture.png": b"\x89PNG\r\n\x1a\n\0\0",
    "INDEX.csv": b"family,trace,seconds\na,b,3\n",
    "b.csv.gz": b"\x1f\x8b\x08\0",
    "empty": b"",
}


def test_files_that_are_no_traces_are_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name, content in OTHERS.items():
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidTrace, match=r"has no trace files: .*INDEX\.csv.*; …"):
        read_traces(tmp_path)
    (tmp_path / "a.csv").write_text("0,1\n")
    assert [one.name for one in read_traces(tmp_path)] == ["a"]
    (told,) = caplog.messages
    assert told.startswith(f"{len(OTHERS)} files under {tmp_path} are no traces: ")
    assert "is none of" in told


def test_a_trace_with_a_wrong_line_is_not_passed_over(tmp_path: Path) -> None:
    (tmp_path / "good").write_text("0,1\n")
    for text in ("0,1\n1,-2\n", "t_seconds,bandwidth_mbps\n0,1\nx,2\n", "seconds,mbps\n0,1\n"):
        (tmp_path / "wrong").write_text(text)
        with pytest.raises(InvalidTrace, match="wrong, line"):
            read_traces(tmp_path)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InvalidTrace, match="is not text"):
        read_traces(tmp_path)


rates = st.lists(st.floats(0.0, 100.0), min_size=2, max_size=8).filter(any)


@given(
    traces=st.lists(rates, min_size=1, max_size=4),
    step_s=st.sampled_from([0.5, 1.0, 3.0]),
    alike=st.booleans(),
    at_s=st.floats(0, 500),
    data=st.data(),
)
def test_the_common_axis_says_what_each_trace_says(
    traces: list[list[float]], step_s: float, alike: bool, at_s: float, data: st.DataObject
) -> None:
    steps = [step_s if alike else step_s * (1 + i) for i in range(len(traces))]
    single = [
        trace(*np.maximum(values, 0.5), step_s=step)
        for values, step in zip(traces, steps, strict=True)
    ]
    every = TraceSet.of(single, least_mbps=0.5, most_mbps=1e6)
    which = data.draw(st.integers(0, len(single) - 1))
    index = np.array([which])
    carried = every.carried(index, np.array([at_s]))[0]
    assert carried == pytest.approx(single[which].bits_until(at_s) / 1e6, rel=1e-9, abs=1e-9)
    back = every.when(index, np.array([carried]))[0]
    assert back == pytest.approx(at_s, rel=1e-9, abs=1e-6)
    assert back == pytest.approx(single[which].when(1e6 * carried), rel=1e-9, abs=1e-6)


def test_bandwidth_is_clipped() -> None:
    every = TraceSet.of([trace(0, 5, 500)], least_mbps=1.6, most_mbps=80)
    assert every.mbps.tolist() == [1.6, 5, 80]


def test_a_split_never_shares_a_trace_and_repeats() -> None:
    traces = random_traces(30)
    parts = split_by_trace(traces, seed=1)
    names = [[one.sha256 for one in part] for part in (parts.train, parts.validation, parts.test)]
    assert sorted(name for part in names for name in part) == sorted(one.sha256 for one in traces)
    assert len(parts.test) == 10
    assert split_by_trace(traces, seed=1) == parts
    assert split_by_trace(traces, seed=2).test != parts.test


def test_a_reversed_trace_carries_as_much() -> None:
    (named,) = random_traces(1)
    back = reversed_in_time(named).trace
    assert back.mbps.tolist() == named.trace.mbps[::-1].tolist()
    assert back.bits_until(back.duration_s) == pytest.approx(
        named.trace.bits_until(named.trace.duration_s)
    )
