"""Dashboards drawn without a Grafana: what is asked, what is told, where it stands."""

import json
import re
import struct
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from lockstep_monitoring.asking import (
    Series,
    Span,
    Unanswered,
    filled,
    label_values,
    newest,
    over,
)
from lockstep_monitoring.dashboards import json_files
from lockstep_monitoring.drawing import board, charts, page, plain, units
from lockstep_monitoring.drawing.__main__ import chosen
from lockstep_pictures import theme

Json = dict[str, Any]
SPAN = Span(1_000.0, 1_060.0, 1.0)
BOARDS = {path: json.loads(text) for path, text in json_files.files().items()}


class Prometheus:
    """Answers every query with two series, and remembers what it was asked."""

    def __init__(self, found: Mapping[str, float] | None = None) -> None:
        self.found = {"a": 1.0, "b": 2.0} if found is None else found
        self.asked: list[tuple[str, str]] = []

    def __call__(self, path: str) -> bytes:
        address = urlsplit(path)
        words = {key: values[0] for key, values in parse_qs(address.query).items()}
        self.asked.append((address.path, words.get("query", words.get("match[]", ""))))
        if address.path.endswith("/values"):
            return json.dumps({"status": "success", "data": ["first", "second"]}).encode()
        return json.dumps({"status": "success", "data": self._data(address.path, words)}).encode()

    def _data(self, path: str, words: Mapping[str, str]) -> Json:
        labels = ("client", "group", "job", "namespace", "source", "phase", "tier", "edge")
        found = [(dict.fromkeys(labels, name), value) for name, value in self.found.items()]
        if path.endswith("/query"):
            at = float(words["time"])
            instant = [{"metric": each, "value": [at, str(value)]} for each, value in found]
            return {"resultType": "vector", "result": instant}
        begin, step = float(words["start"]), float(words["step"])
        ranged = [
            {"metric": each, "values": [[begin + i * step, str(value + i)] for i in range(5)]}
            for each, value in found
        ]
        return {"resultType": "matrix", "result": ranged}


def one_panel(kind: str, *, unit: str = "short", defaults: Json | None = None) -> Json:
    """A dashboard with one panel of a kind."""
    panel = {
        "type": kind,
        "title": "Here & there",
        "gridPos": {"x": 2, "y": 3, "w": 6, "h": 5},
        "fieldConfig": {"defaults": {"unit": unit, "custom": {}, **(defaults or {})}},
        "targets": [{"expr": 'up{job="$job"}', "legendFormat": "{{client}}", "instant": False}],
    }
    return {"uid": "u", "title": "Board", "panels": [panel], "templating": {"list": []}}


def svg_of(made: Json, ask: Prometheus) -> str:
    return page.svg(board.read(made), page.Source(ask, SPAN, {"job": "digits"}))


@pytest.mark.parametrize("path", BOARDS)
def test_every_dashboard_is_drawn_with_all_its_panels(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the last step, which the test of each kind takes."""
    monkeypatch.setattr("vl_convert.vegalite_to_svg", lambda spec, **_: "<svg/>")
    ask = Prometheus()
    read = board.read(BOARDS[path])
    values = chosen(ask, read, job="lab/digits")
    drawn = page.svg(read, page.Source(ask, SPAN, values))
    for panel in BOARDS[path]["panels"]:
        assert plain.text(panel["title"], (0, 0)).partition(">")[2] in drawn
    assert "no data" not in drawn
    asked = [query for route, query in ask.asked if not route.endswith("/values")]
    assert len(asked) == sum(len(panel.get("targets", ())) for panel in BOARDS[path]["panels"])
    assert not [query for query in asked if "$" in query.replace('"$1"', "")]


def test_a_picture_is_as_large_as_the_grid() -> None:
    read = board.read(one_panel("timeseries"))
    png = page.drawn(read, page.Source(Prometheus(), SPAN, {}), scale=1.0)
    width, height = struct.unpack_from(">II", png, 16)
    assert width == 24 * page.COLUMN + page.GAP
    assert height > 8 * page.LINE


def test_a_panel_stands_where_the_json_says() -> None:
    drawn = svg_of(one_panel("timeseries"), Prometheus())
    assert f"translate({page.GAP + 2 * page.COLUMN},{40 + 3 * page.LINE})" in drawn
    assert "Here &amp; there" in drawn


def test_each_kind_of_plot_becomes_svg_with_names_of_its_own() -> None:
    frame = charts.Frame(300, 150, SPAN)
    target = board.Target("x", "x", False)
    figure = board.Figure("t", "", board.Place(0, 0, 8, 8), targets=[target, target])
    found = {"x": Series({}, [(1_000.0, 1.0), (1_001.0, 2.0)])}
    for number, (kind, draw) in enumerate(charts.KINDS.items()):
        drawn = page._embedded(draw(figure, found, frame=frame), number=number)
        assert drawn.startswith("<svg"), kind
        assert 'width="300" height="150"' in drawn, kind
        assert not re.search(r'id="clip|url\(#clip', drawn), kind


@pytest.mark.parametrize("kind", ["timeseries", "stat", "heatmap", "state-timeline", "bargauge"])
def test_a_panel_without_data_says_so(kind: str) -> None:
    assert "no data" in svg_of(one_panel(kind), Prometheus({}))


def test_a_row_without_any_data_is_its_heading_and_what_is_below_moves_up() -> None:
    def row(title: str, y: int) -> board.Figure:
        return board.Figure(title, "row", board.Place(0, y, 24, 1))

    def panel(y: int) -> board.Figure:
        return board.Figure("panel", "stat", board.Place(0, y, 8, 8))

    target = board.Target("x", "x", True)
    some = [(target, [Series({}, [(0.0, 1.0)])])]
    drawn = page._without_empty_rows(
        [
            (row("Full", 0), ()), (panel(1), some), (row("Empty", 9), ()),
            (panel(10), [(target, [])]), (row("Last", 18), ()), (panel(19), some),
        ]
    )  # fmt: skip
    assert [(one.title, one.place.y) for one, _ in drawn] == [
        ("Full", 0), ("panel", 1), ("Empty: no data", 9), ("Last", 10), ("panel", 11),
    ]  # fmt: skip


def test_numbers_have_their_unit_and_the_colour_of_their_threshold() -> None:
    steps = [{"value": None, "color": "green"}, {"value": 2, "color": "red"}]
    look = {"thresholds": {"steps": steps}, "decimals": 0}
    drawn = svg_of(one_panel("stat", unit="percentunit", defaults=look), Prometheus({"x": 3.0}))
    assert "700 %" in drawn
    assert theme.ALARM in drawn


def test_a_gap_in_the_samples_is_a_gap_in_the_line() -> None:
    series = Series({}, [(0.0, 1.0), (1.0, 1.0), (5.0, 2.0)])
    frame = charts.Frame(100, 100, Span(0, 10, 1))
    found = [row["value"] for row in charts._with_gaps("x", series, frame=frame)]
    assert found == [1.0, 1.0, None, 2.0]


def test_a_block_is_as_long_as_its_value_holds() -> None:
    series = Series({}, [(0.0, 1.0), (1.0, 1.0), (2.0, 2.0), (9.5, 2.0)])
    blocks = list(charts._blocks(series, Span(0, 10, 1)))
    assert blocks == [(0.0, 2.0, 1.0), (2.0, 10, 2.0)]


def test_pairs_are_joined_where_both_have_a_sample() -> None:
    figure = board.Figure(
        "t", "xychart", board.Place(0, 0, 8, 8),
        targets=[board.Target("x", "round", False), board.Target("y", "loss", False)],
    )  # fmt: skip
    found = {
        "round": Series({}, [(1.0, 1.0), (2.0, 1.0), (3.0, 2.0)]),
        "loss": Series({}, [(2.0, 0.5), (3.0, 0.4), (4.0, 0.3)]),
    }
    spec = charts.pairs(figure, found, frame=charts.Frame(100, 100, Span(0, 10, 1))).to_dict()
    points = [(one["x"], one["value"]) for one in next(iter(spec["datasets"].values()))]
    assert points == [(1.0, 0.5), (2.0, 0.4)]


def test_a_table_has_a_row_for_each_combination_and_a_dash_for_what_is_missing() -> None:
    figure = board.Figure("t", "table", board.Place(0, 0, 8, 8), columns=["job"])
    columns = {
        "Round": [Series({"job": "a"}, [(0.0, 3.0)]), Series({"job": "b"}, [(0.0, 4.0)])],
        "Loss": [Series({"job": "a"}, [(0.0, 0.25)])],
    }
    drawn = plain.table(figure, columns, width=300, height=200)
    words = re.findall(r">([^<]+)<", drawn)
    assert words == ["job", "Round", "Loss", "a", "3", "0.25", "b", "4", "–"]


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (0.875, "percentunit", "87.5 %"),
        (1250.0, "joule", "1.25 kJ"),
        (0.0, "joule", "0 J"),
        (0.02, "s", "20 ms"),
        (90.0, "s", "90 s"),
        (200.0, "s", "3 min 20 s"),
        (7300.0, "s", "2 h 1 min"),
        (3 * 2**20, "bytes", "3 MiB"),
        (1.5, "suffix: GHz", "1.5 GHz"),
        (100_000.0, "short", "100,000"),
        (float("nan"), "short", "–"),
    ],
)
def test_values_in_words(value: float, unit: str, words: str) -> None:
    assert units.told(value, unit) == words


def test_variables_are_filled_in_and_nothing_else() -> None:
    text = 'a{job="$job"}[$__rate_interval] "$1" ${job:regex} $unknown'
    filled_in = filled(text, {"job": "digits", "__rate_interval": "15s"})
    assert filled_in == 'a{job="digits"}[15s] "$1" digits $unknown'


def test_what_a_variable_offers_is_asked_of_prometheus() -> None:
    ask = Prometheus()
    assert label_values(ask, 'label_values(up{a="b,c"}, job)') == ["first", "second"]
    assert ask.asked == [("/api/v1/label/job/values", 'up{a="b,c"}')]
    with pytest.raises(ValueError, match="is not label_values"):
        label_values(ask, "up")


def test_the_job_is_the_one_that_is_named_or_the_first() -> None:
    read = board.read(BOARDS["charts/lockstep/dashboards/devices.json"])
    given = chosen(Prometheus(), read, job="lab/digits")
    assert (given["namespace"], given["job"], given["device"]) == ("lab", "digits", ".*")
    found = chosen(Prometheus(), read, job="")
    assert (found["namespace"], found["job"]) == ("first", "first")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"status":"error","error":"parse error: no"}', "parse error: no"),
        (b"404 page not found", "no answer of a Prometheus"),
    ],
)
def test_what_prometheus_refuses_is_an_error_that_says_why(body: bytes, words: str) -> None:
    def ask(_path: str) -> bytes:
        return body

    with pytest.raises(Unanswered, match=words):
        newest(ask, "up")
    with pytest.raises(Unanswered, match=words):
        over(ask, "up", span=SPAN)
