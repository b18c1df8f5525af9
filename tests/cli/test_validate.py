"""`lockstep validate`: files, folders and stdin, what is said of them and the exit code."""

import json
from pathlib import Path

import pytest
import yaml

from tests.support.cli import Lockstep
from tests.support.manifests import MINIMAL, Json, changed, job_manifest

ROUNDS = "spec.training.rounds: Invalid value: 0: spec.training.rounds in body should be"


def written(path: Path, *objects: Json) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump_all(objects))
    return str(path)


def wrong(name: str = "bad") -> Json:
    return job_manifest(changed(MINIMAL, {"training.rounds": 0}), name=name)


def test_what_is_taken_is_said_and_ends_well(lockstep: Lockstep, tmp_path: Path) -> None:
    file = written(tmp_path / "job.yaml", job_manifest(MINIMAL))
    ran = lockstep("validate", file)
    assert (ran.code, ran.lines, ran.err) == (0, [f"{file}: FederatedJob job taken"], "")


def test_a_refusal_is_told_in_the_apiservers_words_and_fails(
    lockstep: Lockstep, tmp_path: Path
) -> None:
    file = written(tmp_path / "job.yaml", job_manifest(MINIMAL), wrong())
    ran = lockstep("validate", file)
    assert ran.code == 1
    assert ran.lines == [
        f"{file}: FederatedJob job taken",
        f"{file}: FederatedJob bad refused by the apiserver",
        f"  * {ROUNDS} greater than or equal to 1",
    ]
    assert ran.err == "2 looked at, 1 refused\n"


def test_what_the_operator_would_refuse_is_told_as_his(lockstep: Lockstep, tmp_path: Path) -> None:
    natural = changed(MINIMAL, {"data.partition": {"scheme": "natural"}})
    file = written(tmp_path / "job.yaml", job_manifest(natural))
    ran = lockstep("validate", file)
    assert ran.code == 1
    assert ran.lines[0].endswith("FederatedJob job not accepted by the operator")


@pytest.mark.parametrize("budget", [None, 0.001])
def test_a_budget_of_epsilon_is_left_to_the_operator_and_that_is_said(
    lockstep: Lockstep, tmp_path: Path, budget: float | None
) -> None:
    privacy = {"clipNorm": 1.0, "noiseMultiplier": 1.0}
    more = {} if budget is None else {"epsilonBudget": budget}
    private = changed(MINIMAL, {"privacy": privacy | more})
    file = written(tmp_path / "job.yaml", job_manifest(private))
    ran = lockstep("validate", file)
    assert (ran.code, ran.lines[0]) == (0, f"{file}: FederatedJob job taken")
    assert [line for line in ran.lines if "epsilonBudget" in line] == [
        "  advice: privacy.epsilonBudget 0.001: the operator alone reckons ε, and does not accept "
        "a job whose budget no round fits in"
    ] * (budget is not None)


def test_other_kinds_are_passed_over_with_a_note(lockstep: Lockstep, tmp_path: Path) -> None:
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "s"}}
    ran = lockstep("validate", written(tmp_path / "all.yaml", service))
    assert (ran.code, ran.out) == (0, "")
    assert "Service s not looked at" in ran.err
    assert "there is no FederatedJob in it" in ran.err


def test_stdin_is_a_file_too(lockstep: Lockstep) -> None:
    ran = lockstep("validate", "-", stdin=json.dumps(job_manifest(MINIMAL)))
    assert (ran.code, ran.lines) == (0, ["-: FederatedJob job taken"])


def test_a_folder_is_looked_through_as_deep_as_was_said(lockstep: Lockstep, tmp_path: Path) -> None:
    written(tmp_path / "one.yaml", job_manifest(MINIMAL))
    below = written(tmp_path / "below" / "two.yml", wrong())
    (tmp_path / "notes.txt").write_text("no manifest")
    assert lockstep("validate", str(tmp_path)).code == 0
    ran = lockstep("validate", "-R", str(tmp_path))
    assert ran.code == 1
    assert f"{below}: FederatedJob bad refused by the apiserver" in ran.lines


def test_json_has_every_object_with_all_that_is_said(lockstep: Lockstep, tmp_path: Path) -> None:
    file = written(tmp_path / "job.yaml", wrong())
    ran = lockstep("validate", file, "-o", "json")
    (found,) = json.loads(ran.out)
    assert ran.code == 1
    assert (found["file"], found["kind"], found["name"]) == (file, "FederatedJob", "bad")
    assert found["finding"] == "refused"
    assert [one.startswith(ROUNDS) for one in found["messages"]] == [True]


@pytest.mark.parametrize(
    ("name", "said"),
    [("nowhere.yaml", "there is no file"), ("empty", "there is no .yaml, .yml or .json file in")],
)
def test_what_is_not_there_is_an_error_of_its_own(
    lockstep: Lockstep, tmp_path: Path, name: str, said: str
) -> None:
    (tmp_path / "empty").mkdir()
    ran = lockstep("validate", str(tmp_path / name))
    assert ran.code == 5
    assert said in ran.err


def test_what_is_no_yaml_is_refused(lockstep: Lockstep, tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text("a: [1")
    ran = lockstep("validate", str(file))
    assert ran.code == 1
    assert "the manifest is no YAML" in ran.out
