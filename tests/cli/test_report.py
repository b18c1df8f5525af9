"""`lockstep report` and `compare`: of jobs of the cluster and of files, the same."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lockstep_api.status import FederatedJobStatus
from lockstep_cli.runs import status_of
from tests.support.apiserver import running
from tests.support.cli import Lockstep
from tests.support.manifests import job_manifest
from tests.support.recorded import Recorded, federated, plain, split
from tests.support.volumes import Kubelet, mounted, with_cloud_pod, with_volume


@pytest.fixture
def api() -> Iterator[Kubelet]:
    """An apiserver whose pods start."""
    with running(Kubelet()) as served:
        assert isinstance(served, Kubelet)
        yield served


def folder_of(of: Recorded, folder: Path) -> Path:
    """A folder with the job's files."""
    folder.mkdir()
    of.write(folder)
    (folder / "job.yaml").write_text(yaml.safe_dump(job_manifest(plain(of.spec), name=of.name)))
    return folder


def on_volume(api: Kubelet, of: Recorded, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The job in the cluster, ended, with its files on the volume."""
    with_volume(api, of.name, **plain(of.spec))
    place = folder_of(of, tmp_path / f"{of.name}-volume")
    names = ("history.jsonl", "clients.json")
    content = {name.replace(".", "__"): (place / name).read_bytes() for name in names}
    mounted(monkeypatch, **content)


def test_a_job_that_ended_has_a_page_that_needs_nothing_else(
    api: Kubelet, lockstep: Lockstep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = federated()
    on_volume(api, of, monkeypatch, tmp_path)
    path = tmp_path / "page.html"
    ran = lockstep("report", of.name, "-o", str(path))
    assert (ran.code, ran.lines) == (0, [str(path)]), ran.err
    page = path.read_text()
    assert "<title>lab/digits</title>" in page
    assert "Completed" in page
    assert "managedFields" not in page
    assert "last-applied" not in page


def test_what_is_saved_makes_the_same_report_without_the_cluster(
    api: Kubelet, lockstep: Lockstep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = federated()
    on_volume(api, of, monkeypatch, tmp_path)
    saved = tmp_path / "saved"
    assert (
        lockstep("report", of.name, "-o", str(tmp_path / "a.html"), "--save", str(saved)).code == 0
    )
    (tmp_path / "kubeconfig").unlink()
    files = {"history": "history.jsonl", "clients": "clients.json", "manifest": "job.yaml"}
    words = [word for name, file in files.items() for word in (f"--{name}", str(saved / file))]
    ran = lockstep("report", *words, "-o", str(tmp_path / "b.html"))
    assert ran.code == 0, ran.err
    assert (tmp_path / "b.html").stat().st_size > 10_000
    volume = tmp_path / f"{of.name}-volume"
    assert (saved / "history.jsonl").read_text() == (volume / "history.jsonl").read_text()
    assert (saved / "clients.json").read_text() == (volume / "clients.json").read_text()


def test_a_job_before_its_first_round_has_a_report_too(
    api: Kubelet, lockstep: Lockstep, tmp_path: Path
) -> None:
    api.put("federatedjobs", {**job_manifest(plain(federated().spec), name="new"),
                              "metadata": {"name": "new", "namespace": "lab"}})  # fmt: skip
    path = tmp_path / "page.html"
    ran = lockstep("report", "new", "-o", str(path))
    assert ran.code == 0, ran.err
    assert "<title>lab/new</title>" in path.read_text()


def test_a_picture_of_its_curves_can_be_had_instead(lockstep: Lockstep, tmp_path: Path) -> None:
    saved = folder_of(federated(), tmp_path / "saved")
    path = tmp_path / "curve.svg"
    words = ("--history", str(saved / "history.jsonl"), "--manifest", str(saved / "job.yaml"))
    ran = lockstep("report", *words, "-o", str(path))
    assert ran.code == 0, ran.err
    drawn = path.read_text()
    assert drawn.startswith("<svg")
    for text in ("accuracy on held-out data", "loss on held-out data, nats", "round"):
        assert f">{text}<" in drawn


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ([], 2, "say a job, or --history and --manifest of one"),
        (["--history", "h.jsonl"], 2, "--manifest is missing"),
        (["digits", "-o", "page.pdf"], 1, "must end in one of"),
        (["digits", "-o", "/no/where/page.html"], 1, "there is no folder /no/where"),
        (["--history", "none.jsonl", "--manifest", "m.yaml"], 5, "there is no file none.jsonl"),
        (["nobody"], 5, "nobody"),
    ],
)
def test_what_cannot_be_is_told_in_a_line(
    lockstep: Lockstep,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    code: int,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = lockstep("report", *words)
    assert ran.code == code
    assert said in ran.err
    assert len(ran.err.splitlines()) == 1


def test_jobs_of_cluster_and_folders_are_compared_in_one_table_and_page(
    api: Kubelet, lockstep: Lockstep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_volume(api, federated(), monkeypatch, tmp_path)
    with_cloud_pod(api, "digits")
    other, path = folder_of(split(), tmp_path / "split"), tmp_path / "compare.html"
    ran = lockstep("compare", "lab/digits", str(other), "-n", "elsewhere", "-o", str(path))
    assert ran.code == 0, ran.err
    assert ran.lines[0].split() == ["job", "lab/digits", "default/halves"]
    told = {line.split("  ")[0]: line.split()[-2:] for line in ran.lines[1:-1]}
    ends = [of.records[-1].accuracy for of in (federated(), split())]
    assert told["accuracy"] == [f"{accuracy:.4f}" for accuracy in ends]
    assert ran.lines[-1] == str(path)
    assert "2 jobs compared" in path.read_text()


def test_one_job_is_no_comparison(lockstep: Lockstep) -> None:
    ran = lockstep("compare", "digits")
    assert (ran.code, ran.err) == (2, "error: compare needs two jobs or more\n")


def test_of_a_status_of_another_release_the_times_are_read() -> None:
    times = {"startTime": "2026-01-01T00:00:00Z", "completionTime": 7}
    found = status_of({"status": {"phase": "Dreaming", **times}})
    assert found == FederatedJobStatus(start_time="2026-01-01T00:00:00Z")
