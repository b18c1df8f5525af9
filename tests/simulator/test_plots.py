"""Pictures: each kind of file, repeatable, and of runs that are short, unequal or have diverged."""

import math
import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

from lockstep_simulator.plots import check_file, plot_run, plot_sweep
from lockstep_simulator.rows import Row
from lockstep_simulator.simulation import SimulatedRound
from tests.support.simulating import group, rounds, spec


@pytest.fixture(scope="module")
def played() -> list[SimulatedRound]:
    return rounds(spec(group("fast", 2), group("slow", 1)))


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
def test_a_run_is_drawn_the_same_each_time(
    tmp_path: Path, played: list[SimulatedRound], suffix: str
) -> None:
    before = dict(mpl.rcParams)
    files = [tmp_path / f"{name}{suffix}" for name in ("one", "two")]
    for file in files:
        plot_run(played, file, title="a <job>", target=0.5)
    one, two = (file.read_bytes() for file in files)
    assert one == two
    assert dict(mpl.rcParams) == before


def test_a_page_needs_nothing_but_itself(tmp_path: Path, played: list[SimulatedRound]) -> None:
    plot_run(played, tmp_path / "page.html", title="a <job>")
    page = (tmp_path / "page.html").read_text()
    assert page.startswith("<!doctype html>")
    assert "<title>a &lt;job&gt;</title>" in page
    assert page.count("<svg") == 1
    assert "<script" not in page
    assert re.findall(r'(?:src|href)="(?!#)[^"]*"', page) == []


def test_several_seeds_have_a_band_and_one_has_none(tmp_path: Path) -> None:
    def bands(*runs: list[Row]) -> int:
        plot_sweep({"rounds=3": runs}, tmp_path / "sweep.svg", title="sweep")
        return (tmp_path / "sweep.svg").read_text().count("FillBetween")

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


def test_one_round_is_drawn(tmp_path: Path, played: list[SimulatedRound]) -> None:
    plot_run(played[:1], tmp_path / "run.png", title="one round")
    assert (tmp_path / "run.png").stat().st_size > 10_000


@pytest.mark.parametrize(("name", "fine"), [("a.png", True), ("a.pdf", False), ("png", False)])
def test_other_kinds_of_files_are_refused(name: str, fine: bool) -> None:
    assert (check_file(Path(name)) is None) is fine
