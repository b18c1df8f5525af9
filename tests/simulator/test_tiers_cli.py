"""`lockstep simulate` and `sweep` of jobs with edges: the examples, what people see."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from lockstep_api.wire import RoundReport
from lockstep_simulator.cli import app
from lockstep_simulator.half_work import halves_from_history, halves_on_this_machine
from lockstep_simulator.rows import read_rows, write_rows
from lockstep_simulator.simulation import settings_of
from lockstep_simulator.trainers import build_clients
from lockstep_simulator.work import front_on_this_machine, on_this_machine
from lockstep_workers.errors import InvalidJob
from lockstep_workers.learning.cuts import candidates
from tests.support.simulating import DATASET, setup, spec

RUN = CliRunner()
EXAMPLES = Path("docs/examples")
FEW = ("--set", "training.localSteps.fixed=2", "--rounds", "2", "--work-per-step", "0.01")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """Examples that are there."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    train, test, file = DATASET.train, DATASET.test, tmp_path / "digits.npz"
    np.savez(file, x=train.inputs, y=train.labels, x_test=test.inputs, y_test=test.labels)
    return "--data", str(file)


def run(command: str, name: str, *options: str, code: int = 0) -> Result:
    """What the program says of an example."""
    done = RUN.invoke(app, [command, str(EXAMPLES / f"{name}.yaml"), *options])
    assert done.exit_code == code, done.output
    return done


def objects(done: Result) -> list[dict[str, Any]]:
    """The JSON lines of stdout."""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_example_of_split_training_tells_clusters_and_the_clouds_model(
    data: tuple[str, str], tmp_path: Path
) -> None:
    picture = tmp_path / "run.svg"
    *told, last = objects(run("simulate", "split", *data, *FEW, "--json", "--plot", str(picture)))
    assert [one["round"] for one in told] == [1, 2]
    for one in told:
        assert one["divergence"] >= 0
        assert 0 <= one["cloud_accuracy"] <= 1
        assert set(one["steps"].values()) == {2}
        assert len(one["steps"]) == 8
    assert last["summary"]["cloud_accuracy"] == told[-1]["cloud_accuracy"]
    assert picture.stat().st_size > 0
    lines = run("simulate", "split", *data, *FEW).stdout.splitlines()
    assert f"cloud {told[0]['cloud_accuracy']:.4f}" in lines[0]
    assert any(line.startswith("cloud's model") for line in lines)


def test_the_example_of_averaging_edges_tells_clusters_and_no_clouds_model(
    data: tuple[str, str],
) -> None:
    few = ("--rounds", "2", "--work-per-step", "0.01")
    *told, last = objects(run("simulate", "hierarchical", *data, *few, "--json"))
    assert all(one["divergence"] >= 0 and len(one["steps"]) == 8 for one in told)
    assert all("cloud_accuracy" not in one for one in (*told, last["summary"]))


@pytest.mark.parametrize("name", ["split", "hierarchical"])
def test_plans_of_a_cluster_are_not_played_again_with_edges(
    name: str, data: tuple[str, str], tmp_path: Path
) -> None:
    done = run("simulate", name, *data, "--plans", str(tmp_path / "history.jsonl"), code=1)
    assert f"rounds of mode {name} are not played again" in " ".join(done.stderr.split())


def test_a_job_that_cannot_be_planned_ends_with_the_planners_words(data: tuple[str, str]) -> None:
    few = ("--set", "training.batchSize=8192", "--set", "edges[0].memory=330Mi")
    done = run("simulate", "split", *data, *FEW, *few, code=1)
    assert "round 1 is not planned: " in done.stderr


def test_a_sweep_has_columns_for_clusters_and_the_clouds_model(
    data: tuple[str, str], tmp_path: Path
) -> None:
    out = tmp_path / "sweep.csv"
    options = ("--set", "distillation.enabled=true,false", "--work-per-step", "0.01")
    few = ("--rounds", "1", "--parallel", "1", "--out", str(out))
    run("sweep", "split", *data, *options, *few)
    with out.open(newline="") as text:
        distilled, plain = csv.DictReader(text)
    assert float(distilled["divergence"]) == float(plain["divergence"]) >= 0
    assert float(distilled["cloud_accuracy"]) >= 0
    assert plain["cloud_accuracy"] == ""
    (first, second) = (outcome.rows[0] for outcome in read_rows(out).values())
    assert first.cloud_accuracy == float(distilled["cloud_accuracy"])
    assert second.cloud_accuracy is None


def test_rows_of_a_file_without_these_columns_are_read(tmp_path: Path) -> None:
    out = tmp_path / "sweep.csv"
    write_rows(out, [], outcomes={})
    out.write_text(
        "run,seed,round,accuracy,loss,time_s,energy_j,bytes,steps,clients,error\n"
        "a,0,1,0.5,1.5,2.0,3.0,4,5,6,\n"
    )
    (row,) = read_rows(out)["a"].rows
    assert (row.accuracy, row.divergence, row.cloud_accuracy) == (0.5, None, None)


def test_what_the_front_half_takes_is_measured_once_and_kept(
    data: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lockstep_simulator.work._MEASURED_S", 0.01)
    few = (*FEW[:2], "--rounds", "1")
    first = run("simulate", "split", *data, *few, "--json").stdout
    kept = json.loads((tmp_path / "cache" / "lockstep" / "work-per-step.json").read_text())
    whole, front = sorted(kept, key=len)
    assert front.startswith(f"{whole}/")
    assert kept[front] > 0
    assert run("simulate", "split", *data, *few, "--json").stdout == first


def test_work_that_was_measured_is_dealt_out_as_the_halves_took_it(tmp_path: Path) -> None:
    job = settings_of(setup(spec()))
    clients = build_clients(job, DATASET)
    layer, memory = "2", tmp_path / "kept.json"
    cut = next(
        one for one in candidates(clients["fast-0"].model.module, (1, 28, 28)) if one.layer == layer
    )
    whole = on_this_machine(clients, memory=memory)["fast-0"]
    front = front_on_this_machine(clients["fast-0"], layer, memory=memory)
    work = halves_on_this_machine(clients, cut, memory=memory)
    size = job.training.batch_size
    assert work.front["slow-1"] == pytest.approx(min(front, 0.98 * whole) / size)
    assert work.front["slow-1"] + work.back == pytest.approx(whole / size)


def report(*, samples: int | None) -> RoundReport:
    """A round of `d-0`: 2 core-seconds, and 3 of its edge."""
    update = {
        "client": "d-0", "round": 1, "examples": 9, "steps": 4, "downloadSeconds": 0,
        "computeSeconds": 2, "cpuSeconds": 2, "throttledSeconds": 0, "frequencyGHz": 1,
        "energyJoules": {}, "samples": samples,
    }  # fmt: skip
    client = {"update": update, "arrivedSeconds": 3, "uploadSeconds": 1, "bytes": 8}
    cluster = {
        "cluster": "c0", "edge": "e-0", "clients": 1, "examples": 9, "seconds": 3,
        "samples": samples or 0, "backCpuSeconds": 3,
    }  # fmt: skip
    body = {
        "round": 1, "planned": True, "seconds": 3, "elapsedSeconds": 3, "clients": [client],
        "clusters": [cluster], "energyJoules": {},
    }  # fmt: skip
    return RoundReport.model_validate(body)


def test_a_history_says_what_an_example_takes_in_either_half() -> None:
    work = halves_from_history(["d-0", "d-1"], [report(samples=100)])
    assert work.front == {"d-0": 0.02, "d-1": 0.02}
    assert work.back == 0.03
    with pytest.raises(InvalidJob, match="no round of split training"):
        halves_from_history(["d-0"], [report(samples=None)])
