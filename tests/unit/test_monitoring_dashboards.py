"""Dashboards: what each panel tells, where it stands, and that its JSON is Grafana's model."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import dashboard as models

from lockstep_api import series
from lockstep_monitoring import rules
from lockstep_monitoring.asking import filled
from lockstep_monitoring.dashboards import ALL, json_files
from lockstep_monitoring.dashboards.panels import Told
from tests.support.promtool import checked

Json = dict[str, Any]
BOARDS: dict[str, Json] = {
    Path(path).stem: json.loads(text) for path, text in json_files.files().items()
}
OF_GRAFANA = {"__rate_interval", "__url_time_range", "datasource:queryparam", "1"}


def panels() -> Iterator[Any]:
    """Every panel of every dashboard, but for the headings of rows."""
    for name, board in BOARDS.items():
        for panel in board["panels"]:
            if panel["type"] != "row":
                yield pytest.param(panel, id=f"{name}-{panel['title']}")


def test_there_are_five_dashboards_with_addresses_that_stay() -> None:
    assert {name: board["uid"] for name, board in BOARDS.items()} == {
        "fleet": "lockstep-fleet",
        "job": "lockstep-job",
        "devices": "lockstep-devices",
        "allocator": "lockstep-allocator",
        "control-plane": "lockstep-control-plane",
    }


@pytest.mark.parametrize("panel", list(panels()))
def test_a_panel_has_title_description_unit_and_named_queries(panel: Json) -> None:
    shows, bad = panel["description"].split("\n\nBad: ")
    assert panel["title"].strip()
    assert shows.strip()
    assert bad.strip()
    assert panel["fieldConfig"]["defaults"]["unit"].strip()
    assert panel["targets"]
    assert all(target["expr"] and target["legendFormat"] for target in panel["targets"])
    assert len({target["legendFormat"] for target in panel["targets"]}) == len(panel["targets"])


@pytest.mark.parametrize("missing", ["title", "good", "bad", "unit"])
def test_a_panel_without_a_word_on_it_cannot_be_made(missing: str) -> None:
    words = {"title": "Queue", "good": "Jobs.", "bad": "many.", "unit": "short"}
    Told(**words)
    with pytest.raises(ValueError, match=f"its {missing} is missing"):
        Told(**(words | {missing: " "}))


@pytest.mark.parametrize("name", BOARDS)
def test_panels_stand_beside_each_other(name: str) -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in BOARDS[name]["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        for cell in ((x, y) for x in range(at["w"]) for y in range(at["h"])):
            place = (at["x"] + cell[0], at["y"] + cell[1])
            assert place not in taken, f"{panel['title']} on {taken.get(place)}"
            taken[place] = panel["title"]


@pytest.mark.parametrize("name", BOARDS)
def test_panels_have_ids_of_their_own(name: str) -> None:
    ids = [panel["id"] for panel in BOARDS[name]["panels"]]
    assert ids == list(range(1, len(ids) + 1))


@pytest.mark.parametrize("name", BOARDS)
def test_a_dashboard_has_the_variables_that_it_uses(name: str) -> None:
    board = BOARDS[name]
    has = {variable["name"] for variable in board["templating"]["list"]}
    asked = [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]
    asked += [json.dumps(variable.get("query")) for variable in board["templating"]["list"]]
    used = {found for text in asked for found in re.findall(r"\$(\w+)", text)} - OF_GRAFANA
    assert used <= has
    assert has <= used | {"datasource"}


@pytest.mark.parametrize("name", BOARDS)
def test_the_datasource_is_the_one_that_is_chosen(name: str) -> None:
    for panel in BOARDS[name]["panels"]:
        if panel["type"] != "row":
            for one in (panel, *panel["targets"]):
                assert one["datasource"] == {"type": "prometheus", "uid": "${datasource}"}


@pytest.mark.parametrize("name", BOARDS)
def test_dashboards_lead_to_each_other(name: str) -> None:
    (link,) = BOARDS[name]["links"]
    assert link["type"] == "dashboards"
    assert link["includeVars"]
    assert set(link["tags"]) <= set(BOARDS[name]["tags"])


def test_a_job_of_the_fleet_leads_to_its_own_dashboard() -> None:
    (table,) = (panel for panel in BOARDS["fleet"]["panels"] if panel["type"] == "table")
    overrides = {one["matcher"]["options"]: one for one in table["fieldConfig"]["overrides"]}
    (link,) = overrides["job"]["properties"][0]["value"]
    address, _, variables = link["url"].partition("?")
    assert address == f"/d/{BOARDS['job']['uid']}"
    named = set(re.findall(r"var-(\w+)=", variables))
    assert named == {"namespace", "job"}
    assert named <= {one["name"] for one in BOARDS["job"]["templating"]["list"]}


@pytest.mark.parametrize("name", ALL)
def test_the_json_is_what_grafana_s_model_reads(name: str) -> None:
    """What the schema does not know would be lost on the way through the model."""
    again = json.dumps(models.Dashboard.from_json(BOARDS[name]), cls=JSONEncoder)
    assert json.loads(again) == BOARDS[name]


def test_a_dashboard_fits_into_a_configmap() -> None:
    assert max(len(text.encode()) for text in json_files.files().values()) < 2**20 // 4


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("fleet", {"datasource", "namespace", "tier"}),
        ("job", {"datasource", "namespace", "job", "tier"}),
        ("devices", {"datasource", "namespace", "job", "device"}),
        ("allocator", {"datasource", "namespace", "job"}),
        ("control-plane", {"datasource", "release"}),
    ],
)
def test_what_can_be_chosen(name: str, wanted: set[str]) -> None:
    assert {one["name"] for one in BOARDS[name]["templating"]["list"]} == wanted


def test_prometheus_s_own_tool_can_read_every_query(tmp_path: Path) -> None:
    values = {"__rate_interval": "1m"}
    asked = sorted(
        {
            filled(target["expr"], values)
            for board in BOARDS.values()
            for panel in board["panels"]
            for target in panel.get("targets", ())
        }
    )
    made = [{"record": f"query:{i}", "expr": expr} for i, expr in enumerate(asked)]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": made}]}))
    checked(file)


def test_what_values_are_drawn_against_has_its_own_unit_and_no_bounds_of_theirs() -> None:
    pairs = [one for one in BOARDS["job"]["panels"] if one["type"] == "xychart"]
    assert len(pairs) == 5
    for panel in pairs:
        (of_x,) = panel["fieldConfig"]["overrides"]
        assert of_x["matcher"]["options"] == panel["targets"][0]["legendFormat"]
        unit, *bounds = of_x["properties"]
        assert unit in ({"id": "unit", "value": "short"}, {"id": "unit", "value": "joule"})
        assert bounds == [{"id": "min"}, {"id": "max"}], "without a value: taken away"
        drawn = [one["y"]["matcher"]["options"] for one in panel["options"]["series"]]
        assert drawn == [target["legendFormat"] for target in panel["targets"][1:]]


def test_no_query_names_a_series_that_nobody_has() -> None:
    has = {name for one in series.ALL for name in one.names}
    has |= {one.name for found in rules.GROUPS.values() for one in found}
    asked = json.dumps(list(BOARDS.values()))
    named = set(re.findall(r"\b(?:lockstep[_:][\w:]+|process_\w+)", asked))
    assert named <= has
    assert len(named) > 50
