"""Traces and links: exact integrals, their inverse, and transfers that take their time."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_allocator.bandwidth import InvalidTrace, Trace, parse_trace
from lockstep_workers.device.link import Link, Transfer

PIECES = st.lists(
    st.tuples(st.floats(0.01, 50), st.one_of(st.just(0.0), st.floats(0.01, 500))),
    min_size=1,
    max_size=12,
).filter(lambda pieces: any(rate > 0 for _, rate in pieces))


def trace_of(pieces: list[tuple[float, float]]) -> Trace:
    """A trace from (length in s, Mbit/s)."""
    lengths = np.array([length for length, _ in pieces])
    starts = np.concatenate([[0.0], np.cumsum(lengths)[:-1]])
    return Trace.of(starts, np.array([rate for _, rate in pieces]), duration_s=float(lengths.sum()))


class Clock:
    """Time that passes only by sleeping, and by the cost of each look."""

    def __init__(self, cost_s: float = 0.0, oversleep_s: float = 0.0) -> None:
        self.now, self.cost_s, self.oversleep_s = 0.0, cost_s, oversleep_s
        self.looks = 0

    def __call__(self) -> float:
        self.now += self.cost_s
        self.looks += 1
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds + self.oversleep_s


def link(trace: Trace, clock: Clock, *, delay_s: float = 0.0) -> Link:
    """A link at the start of its trace."""
    return Link(trace, delay_s=delay_s, clock=clock, wall_clock=lambda: 0.0, sleep=clock.sleep)


@given(pieces=PIECES, at=st.floats(0, 1000))
def test_the_integral_is_that_of_the_pieces(pieces: list[tuple[float, float]], at: float) -> None:
    trace = trace_of(pieces)
    loops, inside = divmod(at, trace.duration_s)
    bits = loops * sum(length * rate for length, rate in pieces)
    for length, rate in pieces:
        bits += min(max(inside, 0.0), length) * rate
        inside -= length
    assert trace.bits_until(at) == pytest.approx(bits * 1e6, rel=1e-6, abs=1)


@given(pieces=PIECES, bits=st.floats(1, 1e10))
def test_when_is_the_inverse_of_the_integral(
    pieces: list[tuple[float, float]], bits: float
) -> None:
    trace = trace_of(pieces)
    at = trace.when(bits)
    assert trace.bits_until(at) == pytest.approx(bits, rel=1e-6, abs=10)
    just_before = max(0.0, at * (1 - 1e-6) - 1e-6)
    assert trace.bits_until(just_before) <= bits * (1 + 1e-6) + 10


@given(
    pieces=PIECES,
    size=st.integers(1, 5_000_000),
    start=st.floats(0, 300),
    oversleep=st.floats(0, 0.15),
)
def test_a_transfer_never_runs_ahead_and_ends_when_it_should(
    pieces: list[tuple[float, float]], size: int, start: float, oversleep: float
) -> None:
    trace = trace_of(pieces)
    if size * 8 > trace.mean_mbps(trace.duration_s, trace.duration_s) * 1e6 * 60:
        return  # longer than a minute: the same pieces again and again
    clock = Clock(oversleep_s=oversleep)
    transfer = Transfer(trace, start, 0.0, size)
    before = trace.bits_until(start)
    while transfer.done < size:
        if (allowed := transfer.allowed(clock())) > 0:
            transfer.done += allowed
            carried = (trace.bits_until(start + clock.now) - before) / 8
            assert transfer.done <= carried + 1
        if transfer.done < size:
            clock.sleep(max(0.0, transfer.next_s(clock.now) - clock.now))
        assert clock.looks < 100_000
    wanted = trace.when(before + 8 * size) - start
    assert wanted - 1e-3 <= clock.now <= wanted + oversleep + 0.03


@pytest.mark.parametrize("mbps", [1.0, 8.0, 100.0])
@pytest.mark.parametrize("size", [100_000, 4_000_000, 40_000_000])
def test_a_constant_link_takes_size_over_rate(mbps: float, size: int) -> None:
    clock = Clock(oversleep_s=0.01)
    link(Trace.constant(mbps), clock, delay_s=0.25).carry(size, lambda _start, n: n)
    assert clock.now == pytest.approx(0.25 + size * 8e-6 / mbps, abs=0.03)
    assert clock.looks < 5 + 60 * clock.now * 2


def test_a_link_that_changes_each_second_is_followed_within_5_percent_over_5_seconds() -> None:
    rates = np.random.default_rng(1).uniform(1, 40, 60)
    trace = Trace.of(np.arange(60.0), rates, duration_s=60.0)
    clock, arrivals = Clock(oversleep_s=0.02), []
    link(trace, clock).carry(
        100_000_000,
        lambda _start, n: arrivals.append((clock.now, n)) or n,  # type: ignore[func-returns-value]
    )
    for since in np.arange(0.0, clock.now - 5, 1.0):
        got = sum(n for at, n in arrivals if since < at <= since + 5) * 8
        wanted = trace.bits_until(since + 5) - trace.bits_until(since)
        assert got == pytest.approx(wanted, rel=0.05)


def test_a_link_that_stands_still_waits_without_looking_all_the_time() -> None:
    trace = parse_trace("0,8\n1,0\n61,8", source="t")
    clock = Clock()
    link(trace, clock).carry(2_000_000, lambda _start, n: n)
    assert clock.now == pytest.approx(62.0, abs=0.03)
    assert clock.looks < 300


def test_the_trace_goes_on_when_a_pod_starts_anew() -> None:
    trace = trace_of([(10.0, 1.0), (10.0, 5.0)])
    first = Link(trace, offset_s=3.0, origin_s=1000.0, wall_clock=lambda: 1000.0)
    again = Link(trace, offset_s=3.0, origin_s=1000.0, wall_clock=lambda: 1012.0)
    assert first.position_s() == 3.0
    assert again.position_s() == pytest.approx((first.position_s() + 12) % 20)
    assert first.mean_mbps() == pytest.approx((7 * 5 + 3 * 1) / 10)
    assert math.isnan(Link().mean_mbps())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no rows: write t_seconds,bandwidth_mbps"),
        ("t_seconds,bandwidth_mbps\n", "has no rows"),
        ("0,1\n1,2,3", "line 2: 3 columns"),
        ("0,1\n1,fast", "line 2: '1,fast' are not two numbers"),
        ("0,1\n1,nan", "line 2: 1,nan is not finite: leave such rows out"),
        ("0,inf", "line 1: 0,inf is not finite"),
        ("0,1\n1,-2", "line 2: bandwidth -2 is negative"),
        ("0,1\n2,1\n1,1", "line 3: 1 s is not after 2 s: sort the rows"),
        ("0,1\n0,1", "line 2: 0 s is not after 0 s"),
        ("0,1\n1e-9,1", "line 2: 1e-09 s after the row before it: give times in seconds"),
        ("0,0\n1,0", "bandwidth 0 throughout: nothing would ever arrive"),
        ("0,1e9", "line 1: 0 s, 1e\\+09 Mbit/s is too large: mind the units"),
        ("0,1\n1e300,1", "too large: mind the units"),
        ("0,1e-9", "too little: write 0"),
    ],
)
def test_what_is_no_trace_is_explained(text: str, message: str) -> None:
    with pytest.raises(InvalidTrace, match=rf"it.*{message}"):
        parse_trace(text, source="it")


def test_a_trace_is_read_with_and_without_header() -> None:
    for head in ("", "t_seconds,bandwidth_mbps\r\n"):
        trace = parse_trace(f"{head}5,1\r\n7,3\r\n\r\n8,0\r\n", source="t")
        assert trace.starts_s.tolist() == [0.0, 2.0, 3.0]
        assert trace.mbps.tolist() == [1.0, 3.0, 0.0]
        assert trace.duration_s == 4.0
    assert parse_trace("0,2", source="t").duration_s == 1.0


@given(text=st.text(alphabet='0123456789.,;\t-+einfa \n\r"x\ufeff', max_size=200))
def test_any_text_is_a_trace_or_explained(text: str) -> None:
    try:
        trace = parse_trace(text, source="t")
    except InvalidTrace:
        return
    assert trace.bits_until(trace.duration_s) > 0
    assert math.isfinite(trace.when(1e6))
