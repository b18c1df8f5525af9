"""Pictures: each kind of file, repeatable, and of runs that are short, unequal or have diverged."""

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lockstep_pictures.figures import JobParts, figures_of
from lockstep_pictures.files import check_suffix
from lockstep_pictures.model import JobFigures
from lockstep_simulator.plots import plot_run, plot_sweep
from lockstep_simulator.rows import Row
from tests.support.simulating import group, rounds, spec


@pytest.fixture(scope="module")
def played() -> JobFigures:
    target = {"target": {"metric": "accuracy", "value": 0.995}}
    job = spec(group("fast", 2), group("slow", 1), training=target)
    return figures_of(JobParts(name="job", spec=job), [one.record for one in rounds(job)])


def curve(count: int, *, seed: int = 0, **other: Any) -> list[Row]:
    return [
        Row(**{
            "round": number, "accuracy": 0.5 + number / 100 + seed / 50, "loss": 1 / number,
            "time_s": number * (1 + seed), "energy_j": 2.0 * number, "bytes": 1, "steps": 1,
            "clients": 1, **other,
        })
        for number in range(1, count + 1)
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", [".png", ".svg", ".html"])
def test_a_run_is_drawn_the_same_each_time(tmp_path: Path, played: JobFigures, suffix: str) -> None:
    files = [tmp_path / f"{name}{suffix}" for name in ("one", "two")]
    for file in files:
        plot_run(played, file, title="a <job>")
    one, two = (file.read_bytes() for file in files)
    assert one == two


def test_a_page_needs_nothing_but_itself(tmp_path: Path, played: JobFigures) -> None:
    plot_run(played, tmp_path / "page.html", title="a <job>")
    page = (tmp_path / "page.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "<title>a &lt;job&gt;</title>" in page
    shell = re.sub(r"(<script[^>]*>).*?</script>", r"\1</script>", page, flags=re.DOTALL)
    assert shell.count("<script") > 0
    assert re.findall(r'(?:src|href)="(?!#)[^"]*"', shell) == []


def test_a_run_shows_what_became_of_its_rounds_and_devices(
    tmp_path: Path, played: JobFigures
) -> None:
    plot_run(played, tmp_path / "run.svg", title="a job")
    drawn = (tmp_path / "run.svg").read_text()
    for text in (
        "accuracy on held-out data",
        "loss on held-out data, nats",
        "time since round 1 began, s",
        "energy of all devices (modelled), J",
        "seconds since the round began",
        "CPU frequency, GHz",
        "local steps",
        "fast",
        "slow",
    ):
        assert f">{text}<" in drawn
    assert drawn.count("target 0.995") == 3


def test_several_seeds_have_a_band_and_one_has_none(tmp_path: Path) -> None:
    def bands(*runs: list[Row]) -> int:
        plot_sweep({"rounds=3": runs}, tmp_path / "sweep.svg", title="sweep")
        drawn = (tmp_path / "sweep.svg").read_text()
        return len(re.findall(r'aria-roledescription="area mark"', drawn))

    assert bands(curve(3)) == 0
    assert bands(curve(3), curve(3, seed=1)) == 6


@pytest.mark.parametrize(
    "series",
    [
        {"one round": [curve(1)]},
        {"unequal": [curve(2), curve(9, seed=1)]},
        {"diverged": [curve(3, loss=math.nan, accuracy=0.1), curve(3, loss=math.inf)]},
        {"far apart": [curve(3)], "away": [curve(3, loss=1e9)]},
        {f"setting.of.some.length={number}": [curve(2)] for number in range(30)},
        {"nothing": [[]]},
    ],
    ids=lambda series: next(iter(series)),
)
def test_odd_sweeps_are_drawn(tmp_path: Path, series: dict[str, list[list[Row]]]) -> None:
    plot_sweep(series, tmp_path / "sweep.png", title="sweep")
    assert (tmp_path / "sweep.png").stat().st_size > 10_000


def test_one_round_is_drawn(tmp_path: Path, played: JobFigures) -> None:
    plot_run(replace(played, rounds=played.rounds[:1]), tmp_path / "run.png", title="one round")
    assert (tmp_path / "run.png").stat().st_size > 10_000


@pytest.mark.parametrize(("name", "fine"), [("a.png", True), ("a.pdf", False), ("png", False)])
def test_other_kinds_of_files_are_refused(name: str, fine: bool) -> None:
    assert (check_suffix(Path(name), option="--plot") is None) is fine
