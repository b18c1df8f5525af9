"""`lockstep simulate`: what people see, and what they get wrong."""

import itertools
import json
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog
import yaml
from safetensors.numpy import load_file
from typer.testing import CliRunner, Result

from lockstep_api.records import CLIENTS_FILE, HISTORY_FILE, ClientsRecord, RoundRecord
from lockstep_simulator import running
from lockstep_simulator.cli import app
from lockstep_simulator.emulation import USUAL
from lockstep_simulator.simulated import SimulatedRound
from tests.support.simulating import DATASET, group, rounds, spec

RUN = CliRunner()
KEYS = ["round", "accuracy", "loss", "time_s", "energy_j", "bytes", "steps", "clients"]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, ...]:
    """A manifest and its examples."""
    body = spec(group("d", 4, uplink={"mbps": 4}), training={"rounds": 4})
    manifest = {
        "apiVersion": "lockstep.dev/v1alpha1", "kind": "FederatedJob",
        "metadata": {"name": "digits", "namespace": "lab"},
        "spec": json.loads(body.to_json()),
    }  # fmt: skip
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(manifest))
    train, test = DATASET.train, DATASET.test
    np.savez(
        tmp_path / "digits.npz", x=train.inputs, y=train.labels,
        x_test=test.inputs, y_test=test.labels,
    )  # fmt: skip
    return (str(tmp_path / "job.yaml"), "--data", str(tmp_path / "digits.npz"))


def simulated(files: tuple[str, ...], *options: str, code: int = 0) -> Result:
    """What the program says."""
    done = RUN.invoke(app, ["simulate", *files, "--work-per-step", "0.01", *options])
    assert done.exit_code == code, done.output
    return done


def objects(done: Result) -> list[dict[str, Any]]:
    """The JSON lines of stdout."""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_json_has_an_object_a_round_and_then_the_summary(files: tuple[str, ...]) -> None:
    *told, last = objects(simulated(files, "--json"))
    assert [list(one) for one in told] == [KEYS] * 4
    assert [one["round"] for one in told] == [1, 2, 3, 4]
    assert told[0]["steps"] == {f"d-{i}": 5 for i in range(4)}
    assert told[0]["clients"] == [f"d-{i}" for i in range(4)]
    assert all(a["time_s"] < b["time_s"] for a, b in itertools.pairwise(told))
    summary = last["summary"]
    assert summary["result"] == "RoundsCompleted"
    assert summary["rounds"] == 4
    assert summary["work_per_step"] == pytest.approx(0.01)
    shared = ("accuracy", "loss", "time_s", "energy_j", "bytes")
    assert {key: summary[key] for key in shared} == {key: told[-1][key] for key in shared}


def test_logging_goes_on_after_a_run_whose_standard_error_is_gone(files: tuple[str, ...]) -> None:
    simulated(files, "--rounds", "1")
    structlog.get_logger().info("afterwards")


def test_it_says_the_same_each_time(files: tuple[str, ...]) -> None:
    options = ("--json", "--failures", "0.3", "--seed", "5")
    first = simulated(files, *options).stdout
    assert simulated(files, *options).stdout == first
    assert simulated(files, "--json", "--failures", "0.3", "--seed", "6").stdout != first


def test_lines_and_a_table_where_there_is_no_terminal(files: tuple[str, ...]) -> None:
    lines = simulated(files).stdout.splitlines()
    assert [line.split("  ")[0] for line in lines[:4]] == [f"round {i}/4" for i in range(1, 5)]
    names = ["result", "accuracy", "loss", "time", "energy", "uploads", "work", "simulated"]
    assert [line.split()[0] for line in lines[4:]] == names
    assert "after 4 of 4 rounds" in lines[4]


def test_options_change_the_spec(files: tuple[str, ...]) -> None:
    done = simulated(
        files, "--json", "--rounds", "2", "--strategy", "fedprox", "--set", "strategy.mu=0.5",
        "--set", "training.localSteps.fixed=3", "--set", "participation.fraction=0.5",
    )  # fmt: skip
    *told, last = objects(done)
    assert [sorted(one["steps"].values()) for one in told] == [[3, 3], [3, 3]]
    plain = objects(simulated(files, "--json", "--rounds", "2", "--set",
                              "training.localSteps.fixed=3", "--set",
                              "participation.fraction=0.5"))  # fmt: skip
    assert plain[-1]["summary"]["loss"] != last["summary"]["loss"]


def test_the_model_is_written_as_the_cloud_pod_writes_it(
    files: tuple[str, ...], tmp_path: Path
) -> None:
    simulated(files, "--save-model", str(tmp_path / "model.safetensors"))
    model = load_file(tmp_path / "model.safetensors")
    assert {name: value.shape for name, value in model.items()} == {
        "1.weight": (8, 784), "1.bias": (8,), "3.weight": (10, 8), "3.bias": (10,),
    }  # fmt: skip


def test_work_is_measured_once_and_kept(
    files: tuple[str, ...], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lockstep_simulator.work._MEASURED_S", 0.01)

    def work(*options: str) -> float:
        done = RUN.invoke(app, ["simulate", *files, "--json", "--rounds", "1", *options])
        assert done.exit_code == 0, done.output
        return float(objects(done)[-1]["summary"]["work_per_step"])

    first = work()
    assert 0 < first < 1
    kept = cache / "lockstep" / "work-per-step.json"
    assert list(json.loads(kept.read_text()).values()) == [first]
    assert work() == first
    work("--set", "training.batchSize=16")
    assert len(json.loads(kept.read_text())) == 2
    kept.write_text("{")
    assert work() > 0


def test_a_history_gives_work_and_plans(files: tuple[str, ...], tmp_path: Path) -> None:
    job = spec(group("d", 4), participation={"fraction": 0.5}, training={"rounds": 3})
    done = rounds(job, overheads=replace(USUAL, cold_s=0.0))
    history = tmp_path / "history.jsonl"
    history.write_text("".join(one.report.to_json() + "\n" for one in done))
    told = objects(RUN.invoke(app, ["simulate", *files, "--json", "--plans", str(history)]))
    assert [one["clients"] for one in told[:-1]] == [list(one.clients) for one in done]
    summary = told[-1]["summary"]
    assert (summary["result"], summary["rounds"]) == ("RoundsCompleted", 3)
    assert summary["work_per_step"] == pytest.approx(0.02)
    given = objects(RUN.invoke(app, ["simulate", *files, "--json", "--history", str(history)]))
    assert given[-1]["summary"]["work_per_step"] == pytest.approx(0.02)
    assert [len(one["clients"]) for one in given[:-1]] == [4] * 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_with_what_there_is(
    files: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    run = running.run

    def interrupted(*args: Any, show: Any, **more: Any) -> running.Ended:
        def each(done: SimulatedRound) -> None:
            show(done)
            if done.round == 2:
                signal.raise_signal(number)

        return run(*args, show=each, **more)

    monkeypatch.setattr("lockstep_simulator.cli.run", interrupted)
    before = signal.getsignal(number)
    model = tmp_path / "model.safetensors"
    done = simulated(files, "--json", "--save-model", str(model), code=130)
    summary = objects(done)[-1]["summary"]
    assert (summary["result"], summary["rounds"]) == ("Interrupted", 2)
    assert summary["message"].startswith("interrupted: accuracy ")
    assert load_file(model)["3.bias"].shape == (10,)
    assert signal.getsignal(number) is before


def test_a_job_that_fails_says_why_and_what_there_is(files: tuple[str, ...]) -> None:
    hot = ("--set", "training.learningRate=1000000000000", "--set", "training.localSteps.fixed=40")
    done = simulated(files, *hot, code=1)
    assert "error: round 1: all updates were refused" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--set", "training.rounds=0"), "spec.training.rounds: Invalid value"),
        (("--policy", "none.safetensors", "--set", "allocation.policy=ppo"), "none.safetensors"),
        (("--history", "none.jsonl"), "cannot read the history none.jsonl"),
        (("--plans", "none.jsonl"), "cannot read the history none.jsonl"),
        (("--set", "allocation.policy=ppo", "--set", "allocation.online=true"), "online"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(
    files: tuple[str, ...], options: tuple[str, ...], told: str
) -> None:
    done = RUN.invoke(app, ["simulate", *files, *options])
    assert done.exit_code == 1, done.output
    assert told in done.stderr
    assert "Traceback" not in done.output


def test_a_manifest_that_is_not_there(tmp_path: Path) -> None:
    done = RUN.invoke(app, ["simulate", str(tmp_path / "none.yaml")])
    assert done.exit_code == 1
    assert "cannot read" in done.stderr


def test_records_are_the_files_of_a_jobs_volume(files: tuple[str, ...], tmp_path: Path) -> None:
    folder = tmp_path / "records"
    simulated(files, "--records", str(folder))
    simulated(files, "--records", str(folder), "--rounds", "3")
    text = (folder / HISTORY_FILE).read_text()
    records = [RoundRecord.model_validate_json(line) for line in text.splitlines()]
    assert [record.round for record in records] == [1, 2, 3], "those of the run before are gone"
    plans = [record.plan for record in records]
    assert all(plan is not None and len(plan.participants) == 4 for plan in plans)
    clients = ClientsRecord.model_validate_json((folder / CLIENTS_FILE).read_bytes()).clients
    assert [one.client for one in clients] == ["d-0", "d-1", "d-2", "d-3"]
    assert all(sum(one.labels) == one.examples for one in clients)
    simulated(files, "--history", str(folder / HISTORY_FILE))


def test_records_that_cannot_be_written_end_the_program(files: tuple[str, ...]) -> None:
    done = simulated(files, "--records", files[0], code=1)
    assert "error: " in done.stderr
    assert "Traceback" not in done.stderr
