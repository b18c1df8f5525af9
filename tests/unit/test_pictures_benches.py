"""What benches and sweeps draw: bands over seeds, bars with whiskers, spans, trade-offs, panels."""

import math

import pytest

from lockstep_pictures.bands import banded
from lockstep_pictures.bars import Bar, Span, bars, spans
from lockstep_pictures.curves import Axis, Point, lines
from lockstep_pictures.files import rendered
from lockstep_pictures.panels import stacked
from lockstep_pictures.theme import Picture
from lockstep_pictures.trade_offs import trade_offs

X, Y = Axis(title="x, s"), Axis(title="y, J")


def drawn(picture: Picture) -> str:
    return rendered(picture, "svg", title="a title").decode()


def test_one_run_is_drawn_as_it_is() -> None:
    (first, second) = banded([[(1.0, 0.5), (4.0, 0.75)]])
    assert (first.x, first.y, first.low) == (1.0, 0.5, None)
    assert (second.x, second.y, second.high) == (4.0, 0.75, None)


def test_several_runs_are_their_mean_within_a_standard_deviation() -> None:
    points = banded([[(1, 1.0), (2, 2.0), (3, 3.0)], [(1, 3.0), (2, 4.0), (3, 5.0)]], every=1)
    assert [one.x for one in points] == [1, 2, 3]
    assert [one.y for one in points] == [2, 3, 4]
    width = math.sqrt(2)
    assert points[0].low == pytest.approx(2 - width)
    assert points[0].high == pytest.approx(2 + width)


def test_runs_of_unequal_length_are_compared_where_all_of_them_are() -> None:
    points = banded([[(0, 0.0), (10, 10.0)], [(4, 4.0), (20, 20.0)]])
    assert (points[0].x, points[-1].x) == (4, 10)
    assert points[-1].y == pytest.approx(10)


def test_no_run_and_runs_without_a_round_give_nothing() -> None:
    assert banded([]) == []
    assert banded([[], []]) == []


def test_bars_stand_in_the_order_given_and_have_whiskers_where_an_error_is_known() -> None:
    shown = [Bar(name="b", value=2.0, error=0.5), Bar(name="a", value=-1.0)]
    text = drawn(bars(shown, x=Axis(title="points"), title="a setting"))
    assert text.index(">b<") < text.index(">a<")
    assert ">a setting<" in text
    spec = bars(shown, x=Axis(title="points"), title="a setting").to_dict()
    told = spec["datasets"][spec["layer"][0]["data"]["name"]]
    assert (told[0]["from"], told[0]["to"]) == (1.5, 2.5)
    assert told[1]["from"] is None


def test_bars_that_go_far_down_are_cut_and_the_others_are_seen() -> None:
    shown = [Bar(name="far", value=-60.0), Bar(name="near", value=1.0)]
    text = drawn(bars(shown, x=Axis(title="points"), title="cut", low=-12.0))
    assert ">−60<" not in text
    assert ">−60<" in drawn(bars(shown, x=Axis(title="points"), title="whole"))


def test_spans_share_the_axis_that_is_asked_for() -> None:
    shown = [Span(name="0", part="compute", begin=0.0, end=1.0)]
    picture = spans(shown, parts=("compute", "upload"), x=X, end=1.0, longest=40.0, title="a round")
    assert ">40<" in drawn(picture)


def test_plans_of_one_name_look_alike_and_are_joined_where_asked() -> None:
    series = {"(d)": [Point(x=1, y=9), Point(x=10, y=1)], "(a)": [Point(x=5, y=5)]}

    def joined(names: list[str]) -> int:
        picture = trade_offs(series, joined=names, x=X, y=Y, title="a setting")
        return drawn(picture).count('aria-roledescription="line mark"')

    assert joined(["(d)"]) == 1
    assert joined([]) == 0


@pytest.mark.parametrize(("one_legend", "times"), [(True, 1), (False, 2)])
def test_panels_have_one_legend_where_names_mean_the_same(one_legend: bool, times: int) -> None:
    series = {"one": [Point(x=1, y=1), Point(x=2, y=2)], "two": [Point(x=1, y=2)]}
    plot = lines(series, x=X, y=Y)
    text = drawn(stacked([plot, plot], width=200, height=100, one_legend=one_legend))
    assert text.count(">two<") == times
    assert text.count(">x, s<") == 2
