"""Pictures of jobs: drawn whatever the job is like, bounded, and with the right values in them."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import vl_convert

from lockstep_pictures import curves, devices, embedding, labels, rounds, theme, tiers
from lockstep_pictures.curves import Across, Axis, Point
from lockstep_pictures.model import JobFigures
from tests.support.pictured import Job

DRAWN: dict[str, Callable[[JobFigures], theme.Picture]] = {
    "accuracy": lambda job: curves.accuracy([job], Across.ROUND),
    "accuracy by time": lambda job: curves.accuracy([job], Across.TIME),
    "loss by energy": lambda job: curves.loss([job], Across.ENERGY, source="model"),
    "energy": curves.energy,
    "durations": rounds.durations,
    "stragglers": rounds.stragglers,
    "frequencies": devices.frequencies,
    "decisions": devices.decisions,
    "bandwidth": lambda job: devices.bandwidth(job, "phone-0"),
    "energy by device": lambda job: devices.energy_by_device(job, "model"),
    "labels": labels.of_devices,
    "labels of clusters": labels.of_clusters,
    "gantt": lambda job: rounds.gantt(job.rounds[-1]),
    "tiers": lambda job: tiers.graph(job, job.rounds[-1]),
}
JOBS = {
    "six": Job(),
    "clusters": Job(devices=8, clusters=3),
    "one round": Job(rounds=1),
    "one device": Job(devices=1, lost_every=1, rounds=2),
    "not evaluated": Job(evaluated=False, plans=False),
    "sums only": Job(summaries=8),
    "large": Job(devices=1000, rounds=6, summaries=3, clusters=4),
}
MOST_BYTES = 300_000
"""Of one picture's spec; a page has about twenty."""


@pytest.fixture(scope="module")
def made() -> dict[str, JobFigures]:
    return {name: job.figures() for name, job in JOBS.items()}


def values(picture: theme.Picture) -> list[dict[str, Any]]:
    """All rows of a picture."""
    return [row for rows in picture.to_dict()["datasets"].values() for row in rows]


@pytest.mark.parametrize("picture", DRAWN)
@pytest.mark.parametrize("job", JOBS)
def test_every_picture_can_be_drawn(made: dict[str, JobFigures], job: str, picture: str) -> None:
    spec = theme.spec_of(DRAWN[picture](made[job]))
    assert spec["description"]
    text = json.dumps(spec, allow_nan=False)
    assert len(text) < MOST_BYTES
    vl_convert.vegalite_to_vega(text, vl_version=embedding.VEGA_LITE)


def test_a_long_job_has_few_points() -> None:
    found = values(curves.accuracy([Job(rounds=2000, summaries=2000).figures()], Across.ROUND))
    assert 290 < len(found) <= 300
    assert (found[0]["round"], found[-1]["round"]) == (1, 2000)


def test_highest_and_lowest_survive_when_points_are_thinned() -> None:
    points = [Point(x=place, y=math.sin(place)) for place in range(5000)]
    points[1777], points[3001] = Point(x=1777, y=9.0), Point(x=3001, y=-9.0)
    found = [row["y"] for row in values(curves.lines({"": points}, x=_axis(), y=_axis()))]
    assert max(found) == 9.0
    assert min(found) == -9.0


def test_a_round_without_accuracy_leaves_a_gap() -> None:
    points = [Point(x=1, y=0.5), Point(x=2, y=math.nan), Point(x=3, y=None), Point(x=None, y=1)]
    found = values(curves.lines({"": points}, x=_axis(), y=_axis()))
    assert [row["y"] for row in found] == [0.5, None, None]


def test_a_band_is_drawn_where_points_have_one() -> None:
    plain = [Point(x=1, y=1.0), Point(x=2, y=2.0)]
    banded = [Point(x=1, y=1.0, low=0.5, high=1.5), Point(x=2, y=2.0, low=1.5, high=2.5)]

    def areas(points: list[Point]) -> int:
        return json.dumps(curves.lines({"a": points}, x=_axis(), y=_axis()).to_dict()).count("area")

    assert (areas(plain), areas(banded)) == (0, 1)


@pytest.mark.parametrize(
    ("losses", "wide"), [((1, 2), False), ((0.1, 9), True), ((0, 9), False), ((math.nan,), False)]
)
def test_losses_far_apart_get_a_log_axis(losses: tuple[float, ...], wide: bool) -> None:
    points = [Point(x=place, y=loss) for place, loss in enumerate(losses)]
    assert curves.is_wide({"a": points}) is wide


def test_several_jobs_of_one_name_are_told_apart() -> None:
    jobs = [Job(name="a").figures(), Job(name="a").figures(namespace="other"), Job().figures()]
    found = values(curves.accuracy(jobs, Across.ROUND))
    assert {row["name"] for row in found} == {"default/a", "other/a", "job"}


def test_sources_of_energy_are_lines_of_their_own(made: dict[str, JobFigures]) -> None:
    found = values(curves.energy(made["six"]))
    last = {row["name"]: row["y"] for row in found}
    assert last == {"modelled": 72.0, "CPU seconds": 288.0}


def test_a_gantt_covers_the_round(made: dict[str, JobFigures]) -> None:
    one = made["six"].rounds[0]
    found = [row for row in values(rounds.gantt(one)) if row.get("client") == "tablet-0"]
    mine = next(each for each in one.participants if each.client == "tablet-0")
    bars = {row["part"]: (row["begin"], row["end"]) for row in found if "part" in row}
    assert list(bars) == list(rounds.PARTS)
    assert bars["download"] == (0.0, 0.05)
    assert bars["upload"][1] == pytest.approx(mine.arrived_s, rel=1e-4)
    assert bars["wait"][1] == pytest.approx(one.seconds, rel=1e-4)
    assert [row["finish"] for row in found if "finish" in row] == [
        pytest.approx(mine.expected_finish_s, rel=1e-4)
    ]


def test_a_gantt_of_many_has_the_first_the_last_and_some_that_are_missing(
    made: dict[str, JobFigures],
) -> None:
    one = made["large"].rounds[-1]
    shown = rounds.chosen(one)
    assert len(shown) == rounds.MOST_BARS
    done = [each for each in shown if each.updated]
    assert (done[0], done[-1]) == (one.finished()[0], one.finished()[-1])
    assert len(shown) - len(done) == 10


def test_who_was_last_is_counted(made: dict[str, JobFigures]) -> None:
    found = values(rounds.stragglers(made["six"]))
    last = [one.finished()[-1].client for one in made["six"].rounds]
    assert {row["client"]: row["rounds"] for row in found} == {
        client: last.count(client) for client in last
    }
    assert [row["rounds"] for row in found] == sorted(
        (row["rounds"] for row in found), reverse=True
    )


def test_a_heat_map_of_many_has_rows_of_neighbours_with_their_mean(
    made: dict[str, JobFigures],
) -> None:
    job = made["large"]
    found = [row for row in values(devices.frequencies(job)) if row["round"] == 4]
    assert len(found) <= devices.MOST_ROWS
    first = found[0]
    assert first["row"] == "gateway-0 … 20"
    members = {f"gateway-{place}" for place in range(21)}
    had = [
        one.had_ghz if one.had_ghz is not None else one.asked_ghz
        for one in job.rounds[3].participants
        if one.client in members
    ]
    assert first["ghz"] == pytest.approx(sum(one or 0 for one in had) / len(had), rel=1e-4)


def test_rows_hold_every_device_once(made: dict[str, JobFigures]) -> None:
    clients = devices.by_name(Job(devices=1000).clients())
    groups = {client: client.rpartition("-")[0] for client in clients}
    rows = devices.rows_of(clients, groups)
    assert sorted(one for row in rows for one in row.clients) == sorted(clients)
    assert len(rows) <= devices.MOST_ROWS


def test_many_rounds_share_columns() -> None:
    found = values(devices.frequencies(Job(devices=3, rounds=400).figures()))
    assert len({row["round"] for row in found}) == devices.MOST_COLUMNS
    assert found[0]["rounds"] == "1 to 5"


def test_ordinals_are_numbers() -> None:
    assert devices.by_name(["a-10", "a-2", "b-0"]) == ["a-2", "a-10", "b-0"]


def test_devices_from_the_slowest_uplink_to_the_fastest_are_followed(
    made: dict[str, JobFigures],
) -> None:
    found = devices.followed(made["large"])
    assert len(found) == 4
    assert len(devices.followed(made["one device"])) <= 1


def test_energy_of_devices_is_that_of_their_updates(made: dict[str, JobFigures]) -> None:
    job = made["six"]
    found = values(devices.energy_by_device(job, "model"))
    spent = sum(
        one.energy.get("model", 0.0)
        for each in job.rounds
        for one in each.participants
        if one.client == "phone-1"
    )
    assert {row["row"]: row["joules"] for row in found}["phone-1"] == pytest.approx(spent, rel=1e-4)


def test_shares_of_labels_add_up(made: dict[str, JobFigures]) -> None:
    for picture in (labels.of_devices, labels.of_clusters):
        found = values(picture(made["large"]))
        for name in {row["row"] for row in found}:
            assert sum(row["share"] for row in found if row["row"] == name) == pytest.approx(
                1, abs=1e-3
            )


def test_the_tier_graph_has_every_tier(made: dict[str, JobFigures]) -> None:
    job = made["clusters"]
    found = [row for row in values(tiers.graph(job, job.rounds[-1])) if "kind" in row]
    counts = {
        kind: sum(row["kind"] == kind for row in found) for kind in ("cloud", "edge", "cluster")
    }
    assert counts == {"cloud": 1, "edge": 2, "cluster": 3}
    assert sum(row["y"] == 0 for row in found) == 8


def test_the_tier_graph_of_many_shares_nodes(made: dict[str, JobFigures]) -> None:
    job = made["large"]
    found = [row for row in values(tiers.graph(job, job.rounds[-1])) if row.get("y") == 0]
    marks = [row for row in found if "kind" in row]
    assert len(marks) <= 8
    assert sum(row["devices"] for row in marks) == 1000


def _axis() -> Axis:
    return Axis(title="any")
