"""`lockstep explain-cut`: the candidates of a model as people are told them."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from lockstep_simulator.cli import app
from lockstep_simulator.explain_cut import explained_cuts
from tests.support.simulating import DATASET, group, spec
from tests.support.tiered import split_job

CNN: dict[str, Any] = {"model": {"name": "cnn"}}


def cells(table: str, layer: str) -> list[str]:
    """What a layer's line says."""
    (line,) = [one for one in table.splitlines() if one.split()[:1] == [layer]]
    return [word for word in line.split()[1:] if word != "*"]


def test_the_built_in_cnn_is_cut_after_its_first_pooling() -> None:
    """Operations, memory, values, KB in both dtypes, parameters and where bytes break even."""
    told = explained_cuts(split_job(), DATASET)
    wanted = ["0.076", "0.61", "3,136", "25.1", "12.5", "448", "9", "18"]
    assert cells(told, "3")[:8] == wanted
    assert cells(told, "0")[:5] == ["0.076", "0.01", "12,544", "100", "50.2"]
    assert cells(told, "4")[0] == "0.994"
    assert "auto takes layer 3: the shortest step" in told
    assert "auto does not take 4, 5, 6, 7, 8: devices would have 0.99 of" in told
    assert [line.split()[0] for line in told.splitlines() if " * " in line] == ["3"]


def test_a_layer_that_the_job_names_is_told_beside_what_auto_takes() -> None:
    named = explained_cuts(split_job(model={"name": "cnn", "cut": "5"}), DATASET)
    assert "auto takes layer 3" in named
    assert named.endswith("model.cut names layer 5")
    unknown = explained_cuts(split_job(model={"name": "cnn", "cut": "head"}), DATASET)
    assert unknown.endswith("model.cut names layer head, which is none of them")


def test_where_no_layer_fits_the_devices_it_says_why() -> None:
    told = explained_cuts(split_job(model={"name": "mlp"}), DATASET)
    assert cells(told, "1")[0] == "0.981"
    assert "no layer fits the devices" in told
    assert " * " not in told


def test_a_residual_model_is_cut_by_its_stages() -> None:
    model = {"name": "resnet10", "args": {"colours": 1, "height": 28, "width": 28}}
    told = explained_cuts(split_job(model=model), DATASET)
    assert cells(told, "stem")[0] == "0.006"
    assert "auto takes layer st" in told


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, ...]:
    """A manifest of a job that is not split, and its examples."""
    manifest = {
        "apiVersion": "lockstep.dev/v1alpha1", "kind": "FederatedJob",
        "metadata": {"name": "digits"},
        "spec": json.loads(spec(group("d", 4), **CNN).to_json()),
    }  # fmt: skip
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(manifest))
    np.savez(tmp_path / "digits.npz", x=DATASET.train.inputs, y=DATASET.train.labels)
    return ("-f", str(tmp_path / "job.yaml"), "--data", str(tmp_path / "digits.npz"))


def test_the_program_tells_it_of_any_job(files: tuple[str, ...]) -> None:
    done = CliRunner().invoke(app, ["explain-cut", *files])
    assert done.exit_code == 0, done.output
    assert "auto takes layer 3" in done.stdout


OWN_MODEL = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(784, 10)

    def forward(self, x):
        return self.layer(x.flatten(1))
"""


def test_a_model_that_cannot_be_cut_ends_the_program_with_what_to_change(
    files: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_whole.py").write_text(OWN_MODEL)
    monkeypatch.syspath_prepend(str(tmp_path))
    sets = ("--set", "model.name=null", "--set", "model.entrypoint=own_whole:Net")
    done = CliRunner().invoke(app, ["explain-cut", *files, *sets])
    assert done.exit_code == 1
    assert "the model is a Net, and mode split cuts an nn.Sequential" in done.stderr
