"""`lockstep-allocator`: what people see, and what they get wrong."""

import csv
import itertools
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from lockstep_allocator.cli import app
from lockstep_allocator.generate import write_traces
from lockstep_allocator.policy import read_policy
from lockstep_allocator.training import forecasting, train
from tests.allocator.fleets import untrained

RUN = CliRunner()
KEYS = {
    "scenario", "devices", "energy_weight", "method", "cost", "cost_sem", "time_s", "energy_j",
    "regret", "regret_sem", "gap_closed", "gap_closed_sem",
}  # fmt: skip
METHODS = [
    "optimum", "max", "static", "equalize", "equalize-10s", "slack", "forecast", "ppo",
]  # fmt: skip


@pytest.fixture(scope="module")
def traces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("traces")
    write_traces(folder, traces=4, seconds=120, seed=1)
    return folder


def evaluated(traces: Path, *options: str) -> list[dict[str, float | str]]:
    done = RUN.invoke(
        app,
        ["evaluate", "--traces", str(traces), "--devices", "3,5", "--energy-weight", "1,10",
         "--rounds", "12", "--seeds", "0,1", "--fleets", "2", "--json", *options],
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    results: list[dict[str, float | str]] = json.loads(done.stdout)
    return results


@pytest.mark.parametrize("scenario", ["paper", "phones"])
def test_every_method_is_judged_against_the_optimum(traces: Path, scenario: str) -> None:
    results = evaluated(traces, "--scenario", scenario)
    assert [r["method"] for r in results] == METHODS * 4
    assert all(set(r) == KEYS for r in results)
    by = {(r["devices"], r["energy_weight"], r["method"]): r for r in results}
    for size in (3, 5):
        for weight in (1.0, 10.0):
            best = by[size, weight, "optimum"]
            assert best["regret"] == 0.0
            assert best["gap_closed"] in {1.0, None}
            assert by[size, weight, "equalize-10s"]["gap_closed"] in {0.0, None}
            assert all(float(by[size, weight, m]["regret"]) > -0.05 for m in METHODS)


@pytest.mark.slow
def test_radios_cost_energy_in_proportion(traces: Path) -> None:
    """Of max, whose rounds do not change: its uploads are the same ones."""
    by_watts = [
        [r for r in evaluated(traces, "--transmit-watts", watts) if r["method"] == "max"]
        for watts in ("0", "1", "3")
    ]
    for silent, one, three in zip(*by_watts, strict=True):
        assert silent["time_s"] == one["time_s"] == three["time_s"]
        first = float(one["energy_j"]) - float(silent["energy_j"])
        assert first > 1
        assert float(three["energy_j"]) - float(silent["energy_j"]) == pytest.approx(3 * first)


def test_the_same_seeds_give_the_same_results(traces: Path) -> None:
    assert evaluated(traces) == evaluated(traces)


def test_people_get_a_table(traces: Path) -> None:
    done = RUN.invoke(
        app, ["evaluate", "--traces", str(traces), "--devices", "3", "--energy-weight", "1",
              "--rounds", "3", "--seeds", "0", "--fleets", "2"],
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    assert "equalize-10s" in done.stdout
    assert "12 traces; 0 that the policy knows left out" in done.stderr


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time for training that passes with its looks at the clock: a budget is so many steps.

    By the real clock, a busy machine may not get to a single update.
    """
    for module, step_s in ((forecasting, 0.3), (train, 3.0)):
        ticks = itertools.count(1000.0, step_s)
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=partial(next, ticks)))


@pytest.mark.slow
@pytest.mark.usefixtures("clock")
def test_training_writes_a_policy_its_curve_and_a_picture(traces: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.safetensors"
    done = RUN.invoke(
        app, ["train", "--traces", str(traces), "--out", str(out), "--budget-minutes", "0.3",
              "--devices", "2:8", "--seed", "3"],
    )  # fmt: skip
    assert done.exit_code == 0, done.stderr
    told = read_policy(out).training
    assert (told.seed, told.settings["devices"]) == (3, [2, 8])
    assert len(told.train_sha256) + len(told.validation_sha256) < 12
    rows = list(csv.DictReader(out.with_suffix(".csv").read_text().splitlines()))
    assert {"updates", "gap_closed", "value_loss"} <= set(rows[0])
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    shown = RUN.invoke(app, ["inspect", str(out)])
    assert shown.exit_code == 0
    assert "generated_3g, generated_5g, generated_lte" in " ".join(shown.stdout.split())
    judged = RUN.invoke(
        app, ["evaluate", "--traces", str(traces), "--policy", str(out), "--devices", "3",
              "--energy-weight", "1", "--rounds", "2", "--seeds", "0", "--fleets", "1"],
    )  # fmt: skip
    assert "that the policy knows left out" in judged.stderr
    assert "0 that" not in judged.stderr


def test_a_policys_own_words_are_shown_as_they_are(tmp_path: Path) -> None:
    """Markup and orders to a terminal, too: who wrote the file may be a stranger."""
    policy, file = untrained(), tmp_path / "policy.safetensors"
    told = policy.training.model_copy(update={"families": ("[/red]\x1b[2J",)})
    file.write_bytes(replace(policy, training=told).to_bytes())
    shown = RUN.invoke(app, ["inspect", str(file)])
    assert shown.exit_code == 0
    assert r"[/red]\x1b[2J" in shown.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "--traces", "nowhere"], "nowhere is not a folder"),
        (["evaluate", "--traces", "{traces}", "--devices", "3,x"], "give numbers with commas"),
        (["evaluate", "--traces", "{traces}", "--devices", "0"], "no less than 1"),
        (["evaluate", "--traces", "{traces}", "--scenario", "cars"], "paper or phones"),
        (["evaluate", "--traces", "{traces}", "--policy", "none"], "cannot be read"),
        (["inspect", "README.md"], "is no policy file"),
        (["train", "--traces", "{traces}", "--out", "/no/where"], "there is no folder"),
        (["train", "--traces", "{traces}", "--out", "x", "--devices", "9:3"], "low <= high"),
    ],
)
def test_mistakes_are_told(traces: Path, arguments: list[str], message: str) -> None:
    done = RUN.invoke(app, [one.format(traces=traces) for one in arguments])
    assert done.exit_code == 2
    assert message in " ".join(done.stderr.replace("│", " ").split())
