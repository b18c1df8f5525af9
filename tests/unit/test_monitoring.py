"""Files made of `lockstep_monitoring` are what is checked in; what recordings may be."""

import re
from pathlib import Path

import pytest
import yaml

from lockstep_api import series
from lockstep_monitoring import alerts, rule_file, rules
from lockstep_monitoring.__main__ import ROOT, generated, main, outdated, write

RECORDINGS = [one for found in rules.GROUPS.values() for one in found]


def test_every_generated_file_is_what_the_code_says() -> None:
    assert outdated(generated(), ROOT) == []
    main(["--check"])


def test_a_file_that_differs_or_is_missing_is_outdated_until_it_is_written(tmp_path: Path) -> None:
    files = {"a/one.yaml": "1\n", "two.json": "2\n"}
    (tmp_path / "two.json").write_text("3\n")
    assert outdated(files, tmp_path) == ["a/one.yaml", "two.json"]
    write(files, tmp_path)
    assert outdated(files, tmp_path) == []


def test_the_check_names_files_that_differ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lockstep_monitoring.__main__.generated", lambda: {"nothing.yaml": "x"})
    with pytest.raises(SystemExit, match=r"nothing\.yaml: .* run make monitoring"):
        main(["--check"])
    assert not (ROOT / "nothing.yaml").exists()


def test_the_file_has_all_recordings_in_their_groups() -> None:
    told = yaml.safe_load((ROOT / rule_file.PATH).read_text())["groups"]
    recorded = {group["name"]: [one.get("record") for one in group["rules"]] for group in told}
    for name, found in rules.GROUPS.items():
        assert recorded[name] == [one.name for one in found]


def test_recordings_have_names_of_their_own_that_say_level_what_and_how() -> None:
    names = [one.name for one in RECORDINGS]
    assert len(set(names)) == len(names)
    assert [one for one in names if not re.fullmatch(r"lockstep:[a-z_]+:[a-z0-9_]+", one)] == []


def test_nothing_is_recorded_by_device() -> None:
    by = [set(re.findall(r"\w+", found)) for one in RECORDINGS
          for found in re.findall(r" by \(([^)]*)\)", one.expression)]  # fmt: skip
    assert by
    assert not set.union(*by) & {"client", "pod"}


def test_rules_ask_for_series_of_the_catalogue_and_for_recordings_alone() -> None:
    told = {name for one in series.ALL for name in one.names} | {one.name for one in RECORDINGS}
    rule = [one for group in rule_file.groups() for one in group["rules"]]
    texts = [text for one in rule for text in (one["expr"], *one.get("annotations", {}).values())]
    asked = {name for text in texts for name in re.findall(r"\blockstep[:_][a-z0-9_:]+", text)}
    assert len(asked) > 20
    assert asked - told == set()


def test_telemetry_is_never_stale_since_devices_tell_less() -> None:
    """What the alert counts devices by is told whatever `perDevice` says."""
    (counted,) = re.findall(
        r"count by \(namespace, job\) \((\w+)\)", alerts.TELEMETRY_STALE.expression
    )
    assert counted in {one.queried for one in series.PLANNED}
