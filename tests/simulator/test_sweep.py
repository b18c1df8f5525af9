"""`lockstep sweep`: which runs there are, one csv whatever runs at a time, failures, going on."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

from lockstep_simulator.cli import app
from lockstep_simulator.grid import Case, cases, read_seeds
from lockstep_simulator.manifest import DataFile
from lockstep_simulator.overrides import BadSetting
from lockstep_simulator.preparing import Options
from lockstep_simulator.rows import Outcome, Row
from lockstep_simulator.sweep import Base, Sweep, prepared
from lockstep_simulator.sweep_shown import failures_of, table_of
from tests.support.simulating import DATASET, group, spec

RUN = CliRunner()


def test_every_value_meets_every_other_and_every_seed() -> None:
    found = cases(["training.rounds=1,2", "spec.strategy.name=fedavg,fedprox"], [0, 7])
    assert len(found) == 8
    assert found[0] == Case((("training.rounds", "1"), ("strategy.name", "fedavg")), 0)
    assert found[-1].sets() == ["training.rounds=2", "strategy.name=fedprox", "training.seed=7"]
    assert [one.seed for one in found] == [0, 7] * 4


def test_without_values_and_seeds_there_is_the_job_itself() -> None:
    (one,) = cases([], [])
    assert one.sets() == []


def test_commas_within_values_are_escaped_or_in_braces() -> None:
    found = cases(
        [r"podTemplate.annotations.a=x\,y,z", "podTemplate.imagePullSecrets={a,b},{c}"], []
    )
    assert [one.values[0][1] for one in found[::2]] == [r"x\,y", "z"]
    assert [one.values[1][1] for one in found[:2]] == ["{a,b}", "{c}"]


@pytest.mark.parametrize(
    ("sets", "seeds", "said"),
    [
        (["training.rounds"], [], "write path=one,two"),
        (["training.rounds=1", "spec.training.rounds=2"], [], "stands twice"),
        (["training.rounds=1,1"], [], "a value stands twice"),
        (["training.seed=1,2"], [1], "use --seeds"),
        (["a=" + ",".join(map(str, range(200)))], list(range(100)), "these are 20000 runs"),
    ],
)
def test_a_grid_that_is_none_says_what_to_change(
    sets: list[str], seeds: list[int], said: str
) -> None:
    with pytest.raises(BadSetting, match=said):
        cases(sets, seeds)


@pytest.mark.parametrize(
    ("text", "seeds"), [("0", [0]), ("3,1", [3, 1]), ("0-3", [0, 1, 2, 3]), ("7, 0-1", [7, 0, 1])]
)
def test_seeds_are_numbers_and_ranges(text: str, seeds: list[int]) -> None:
    assert read_seeds(text) == seeds


@pytest.mark.parametrize("text", ["a", "1,,2", "-1", "1-", "1,1", "3-1"])
def test_other_seeds_are_refused(text: str) -> None:
    with pytest.raises(BadSetting, match="--seeds"):
        read_seeds(text)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a manifest and its examples."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    manifest = {
        "apiVersion": "lockstep.dev/v1alpha1",
        "kind": "FederatedJob",
        "metadata": {"name": "digits"},
        "spec": json.loads(spec(group("d", 3), training={"rounds": 2}).to_json()),
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(manifest))
    train, test = DATASET.train, DATASET.test
    np.savez(
        tmp_path / "digits.npz", x=train.inputs, y=train.labels,
        x_test=test.inputs, y_test=test.labels,
    )  # fmt: skip
    return tmp_path


def swept(folder: Path, *options: str, code: int = 0, work: str = "0.01") -> Result:
    given = ["--work-per-step", work] if work else []
    files = [str(folder / "job.yaml"), "--data", str(folder / "digits.npz")]
    out = ["--out", str(folder / "out.csv")]
    done = RUN.invoke(app, ["sweep", *files, *given, *out, *options])
    assert done.exit_code == code, done.output
    return done


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "out.csv").open(newline="") as text:
        return list(csv.DictReader(text))


VARIED = ("--set", "model.args.hidden=4,0", "--set", "strategy.name=fedavg", "--seeds", "0-1")


@pytest.mark.slow
def test_the_csv_is_the_same_for_any_number_of_processes(folder: Path) -> None:
    """Hidden layers of 0 are refused while the model is built: that run fails, no other does."""
    said = swept(folder, *VARIED, "--parallel", "1", code=1).stderr
    alone = (folder / "out.csv").read_bytes()
    swept(folder, *VARIED, "--parallel", "2", code=1)
    assert (folder / "out.csv").read_bytes() == alone
    found = rows_of(folder)
    assert list(found[0])[:5] == ["run", "model.args.hidden", "strategy.name", "seed", "round"]
    rounds = [(one["model.args.hidden"], one["seed"], one["round"]) for one in found]
    assert rounds == [
        ("4", "0", "1"), ("4", "0", "2"), ("4", "1", "1"), ("4", "1", "2"),
        ("0", "0", ""), ("0", "1", ""),
    ]  # fmt: skip
    errors = {one["model.args.hidden"]: one["error"] for one in found}
    assert errors["4"] == ""
    assert "hidden must be a positive multiple of 1, not 0" in errors["0"]
    assert "failed: model.args.hidden=0, strategy.name=fedavg, seeds 0, 1: " in said
    assert (folder / "out.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_a_sweep_goes_on_with_the_runs_that_are_missing(folder: Path) -> None:
    swept(folder, "--seeds", "0-2", "--parallel", "1")
    whole = (folder / "out.csv").read_text()
    lines = whole.splitlines(keepends=True)
    lost = rows_of(folder)[2]["run"]
    (folder / "out.csv").write_text("".join(one for one in lines if not one.startswith(lost)))
    said = swept(folder, "--seeds", "0-2", "--resume").stderr
    assert re.findall(r"run (\d)/3  (seed \d)", said) == [("3", "seed 1")]
    assert (folder / "out.csv").read_text() == whole


def test_a_run_that_something_has_changed_is_another(folder: Path) -> None:
    def ids(work: float, **more: Any) -> list[str]:
        options = Options(memory=folder / "memory.json", work_per_step=work)
        base = Base(
            text=(folder / "job.yaml").read_text(), traces={}, job=None,
            data=DataFile(folder / "digits.npz"), options=options, **more,
        )  # fmt: skip
        ready = prepared(base, cases([], [0, 1]), kept={}, say=lambda _: None)
        return [run for run, _ in ready.runs]

    found = [ids(0.1), ids(0.1), ids(0.2), ids(0.1, sets=("training.rounds=9",))]
    with (folder / "digits.npz").open("ab") as file:
        file.write(b"\0")
    found.append(ids(0.1))
    assert found[0] == found[1]
    assert len({one for each in found for one in each}) == 8


@pytest.mark.slow
def test_a_run_that_a_cluster_would_refuse_is_told_before_others_run(folder: Path) -> None:
    said = swept(folder, "--set", "strategy.mu=null,0.1", "--parallel", code=1)
    (row,) = [one for one in rows_of(folder) if one["error"]]
    assert row["error"] == "spec.strategy: Invalid value: strategy: mu belongs to name fedprox only"
    assert [one["round"] for one in rows_of(folder)] == ["1", "2", ""]
    table = said.stdout.splitlines()
    assert table[0].split()[:5] == ["setting", "runs", "rounds", "accuracy", "loss"]
    assert table[1].startswith("strategy.mu=null     1       2")


@pytest.mark.slow
def test_the_work_of_a_step_is_measured_once_for_runs_alike(folder: Path) -> None:
    swept(folder, "--set", "training.learningRate=0.1,0.01", work="")
    kept = json.loads((folder / "cache" / "lockstep" / "work-per-step.json").read_text())
    assert len(kept) == 1
    assert len({one["time_s"] for one in rows_of(folder)}) == 2


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--seeds", "x"), "--seeds x: write whole numbers"),
        (("--set", "training.rounds"), "write path=one,two"),
        (("--plot", "curve.pdf"), "must end in one of .png, .svg, .html"),
        (("--resume",), "is no csv of a sweep"),
    ],
)
def test_what_is_wrong_is_told_before_anything_runs(
    folder: Path, options: tuple[str, ...], said: str
) -> None:
    (folder / "out.csv").write_text("a,b\n1,2\n")
    done = RUN.invoke(
        app, ["sweep", str(folder / "job.yaml"), "--out", str(folder / "out.csv"), *options]
    )
    assert done.exit_code != 0
    assert said in " ".join(done.stderr.replace("│", " ").split())
    assert (folder / "out.csv").read_text() == "a,b\n1,2\n"


def row(accuracy: float, **other: Any) -> Row:
    figures = {"round": 5, "loss": 1.0, "time_s": 2.0, "energy_j": 3.0, "bytes": 4, "steps": 5}
    return Row(**{**figures, "clients": 2, "accuracy": accuracy, **other})


def test_the_table_has_mean_and_deviation_over_the_seeds() -> None:
    runs = [(str(seed), Case((("training.rounds", "5"),), seed)) for seed in range(4)]
    outcomes = {
        "0": Outcome((row(0.1, round=4), row(0.5))),
        "1": Outcome((row(0.7),)),
        "2": Outcome(error="it broke"),
        "3": Outcome(error="it broke"),
    }
    sweep = Sweep(runs=runs, tasks={}, outcomes=outcomes, rounds={})
    line = table_of(sweep).splitlines()[1]
    assert "0.6000 ± 0.1414" in line
    assert "± 0.0" not in line
    assert failures_of(sweep) == ["training.rounds=5, seeds 2, 3: it broke"]
