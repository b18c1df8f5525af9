"""Files of a job's volume come whole or not at all, through which pod, and `lockstep model`."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice, repeat
from pathlib import Path

import pytest

from lockstep_api.records import CLIENTS_FILE, HISTORY_FILE, MODEL_FILE, MOST_HISTORY_BYTES
from lockstep_cli.errors import CliError
from lockstep_cli.execution import BrokenOff
from lockstep_cli.reader import Reader, manifest
from lockstep_cli.volume import MOST_MODEL_BYTES, Bound, bound_of, silent, whole
from tests.support.apiserver import running
from tests.support.cli import Lockstep, job, running_status
from tests.support.volumes import IMAGE, Kubelet, mounted, with_cloud_pod, with_volume

MODEL = bytes(range(256)) * 10
ANY = Bound(100, "100 at the most")


@pytest.fixture
def api() -> Iterator[Kubelet]:
    """An apiserver whose pods start."""
    with running(Kubelet()) as served:
        assert isinstance(served, Kubelet)
        yield served


@dataclass(frozen=True)
class Usage:
    """What a disk has left."""

    free: int


def pods(api: Kubelet) -> list[str]:
    return [name for plural, _, name in api.objects if plural == "pods"]


def made_pods(api: Kubelet) -> list[dict[str, object]]:
    return [body for body in api.bodies if body.get("kind") == "Pod"]


def test_a_running_job_is_read_through_its_cloud_pod(
    api: Kubelet, lockstep: Lockstep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_volume(api)
    with_cloud_pod(api)
    files = mounted(monkeypatch, model__safetensors=MODEL, history__jsonl=b"{}\n")
    to, history = tmp_path / "m.safetensors", tmp_path / "h.jsonl"
    ran = lockstep("model", "digits", "-o", str(to), "--history", str(history))
    assert (ran.code, ran.err) == (0, "")
    assert (to.read_bytes(), history.read_bytes()) == (MODEL, b"{}\n")
    assert set(files.read) == {("digits-cloud-0", "worker")}
    assert made_pods(api) == []


def test_an_ended_job_is_read_through_a_pod_that_goes_afterwards(
    api: Kubelet, lockstep: Lockstep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_volume(api)
    mounted(monkeypatch, model__safetensors=MODEL)
    to = tmp_path / "m.safetensors"
    assert lockstep("model", "digits", "-o", str(to)).code == 0
    assert to.read_bytes() == MODEL
    (pod,) = made_pods(api)
    assert pod["spec"]["containers"][0]["image"] == IMAGE  # type: ignore[index]
    assert pods(api) == []


@pytest.mark.parametrize(("words", "image"), [([], "own:2"), (["--image", "other:3"], "other:3")])
def test_the_image_is_the_jobs_or_the_one_that_was_said(
    api: Kubelet,
    lockstep: Lockstep,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: list[str],
    image: str,
) -> None:
    with_volume(api, image="own:2")
    mounted(monkeypatch, model__safetensors=MODEL)
    assert lockstep("model", "digits", "-o", str(tmp_path / "m"), *words).code == 0
    (pod,) = made_pods(api)
    assert pod["spec"]["containers"][0]["image"] == image  # type: ignore[index]


def test_the_pod_goes_even_when_the_file_does_not_come(
    api: Kubelet, lockstep: Lockstep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_volume(api)
    files = mounted(monkeypatch, model__safetensors=MODEL)
    files.most = 100
    to = tmp_path / "m.safetensors"
    to.write_text("the one of yesterday")
    ran = lockstep("model", "digits", "-o", str(to))
    assert ran.code == 3
    assert "2,560 bytes came: try again" in ran.err
    assert to.read_text() == "the one of yesterday"
    assert sorted(one.name for one in tmp_path.iterdir()) == ["kubeconfig", "m.safetensors"]
    assert pods(api) == []


def test_a_pod_that_cannot_start_is_told_and_goes(
    api: Kubelet, lockstep: Lockstep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_volume(api)
    mounted(monkeypatch, model__safetensors=MODEL)
    waiting = {"reason": "ImagePullBackOff", "message": "Back-off pulling image"}
    api.started = {"phase": "Pending", "containerStatuses": [{"state": {"waiting": waiting}}]}
    ran = lockstep("model", "digits", "-o", str(tmp_path / "m"))
    assert ran.code == 1
    assert "ImagePullBackOff: Back-off pulling image: --image names another" in ran.err
    assert pods(api) == []


def test_a_model_that_is_not_there_yet_is_told_with_the_progress(
    api: Kubelet, lockstep: Lockstep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_volume(api)
    with_cloud_pod(api)
    api.put("federatedjobs", job(status=running_status()))
    mounted(monkeypatch, history__jsonl=b"")
    ran = lockstep("model", "digits", "-o", str(tmp_path / "m"))
    assert ran.code == 5
    assert "no model yet: it is written when the job completes (Running, round 3 of 20)" in ran.err
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"status": {"phase": "Pending"}}, "has nothing yet: claim digits-cloud is Pending"),
        ({"metadata": {"ownerReferences": []}}, "is not of job digits"),
        ({"metadata": {"annotations": {}}}, "nobody knows which image can read the volume"),
    ],
)
def test_a_volume_that_cannot_be_read_is_told(
    api: Kubelet,
    lockstep: Lockstep,
    tmp_path: Path,
    change: dict[str, dict[str, object]],
    said: str,
) -> None:
    with_volume(api)
    claim = api.objects["persistentvolumeclaims", "lab", "digits-cloud"]
    for part, fields in change.items():
        claim[part] |= fields
    ran = lockstep("model", "digits", "-o", str(tmp_path / "m"))
    assert ran.code in {1, 5}
    assert said in ran.err
    assert made_pods(api) == []


def test_a_job_without_volume_is_told(api: Kubelet, lockstep: Lockstep) -> None:
    api.put("federatedjobs", job())
    ran = lockstep("model", "digits")
    assert ran.code == 5
    assert "job digits has no volume: claim digits-cloud is not there" in ran.err


def test_a_folder_that_is_missing_is_told_before_anything_is_asked(
    api: Kubelet, lockstep: Lockstep, tmp_path: Path
) -> None:
    with_volume(api)
    ran = lockstep("model", "digits", "-o", str(tmp_path / "no" / "m"))
    assert ran.code == 1
    assert "there is no folder" in ran.err
    assert made_pods(api) == []


def test_a_reader_is_allowed_where_pods_are_restricted_and_ends_by_itself() -> None:
    template = {"tolerations": [{"operator": "Exists"}], "imagePullSecrets": ["regcred"]}
    of = job(podTemplate=template)
    of["metadata"]["uid"] = "u1"
    pod = manifest(Reader(of, IMAGE))
    spec, (container,) = pod["spec"], pod["spec"]["containers"]
    assert spec["activeDeadlineSeconds"] > 0
    assert spec["restartPolicy"] == "Never"
    assert not spec["automountServiceAccountToken"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert spec["volumes"][0]["persistentVolumeClaim"] == {
        "claimName": "digits-cloud",
        "readOnly": True,
    }
    assert spec["tolerations"] == template["tolerations"]
    assert spec["imagePullSecrets"] == [{"name": "regcred"}]
    assert [one["uid"] for one in pod["metadata"]["ownerReferences"]] == ["u1"]
    assert "lockstep.dev/job" not in pod["metadata"]["labels"]  # it is none of the job's pods


def test_progress_is_told_of_each_piece() -> None:
    told: list[tuple[int, int]] = []
    pieces = iter([b"1", b"0\nabc", b"defg", b"hij"])
    came = b"".join(whole(pieces, ANY, progress=lambda done, size: told.append((done, size))))
    assert came == b"abcdefghij"
    assert told == [(3, 10), (7, 10), (10, 10)]


def test_a_file_that_ends_early_is_none() -> None:
    with pytest.raises(BrokenOff):
        list(whole(iter([b"3\n", b"ab"]), ANY, progress=silent))


@pytest.mark.parametrize("pieces", [[b"3\n", b"abcd"], [b"3\nabc", b"d"], [b"0\n", b"d"]])
def test_nothing_is_taken_after_more_came_than_was_announced(pieces: list[bytes]) -> None:
    without_end = chain(pieces, repeat(b"x"))
    with pytest.raises(CliError, match=r"more came than the \d bytes that were announced"):
        for _ in islice(whole(without_end, ANY, progress=silent), 100):
            pass
    assert next(without_end) == b"x"


def test_a_file_larger_than_it_can_be_is_not_read() -> None:
    pieces = iter([b"101\n", b"x" * 101])
    with pytest.raises(CliError, match="a file of 101 bytes was announced: 100 at the most"):
        list(whole(pieces, ANY, progress=silent))
    assert next(pieces) == b"x" * 101


def test_each_file_has_its_bound() -> None:
    assert bound_of(HISTORY_FILE).most == MOST_HISTORY_BYTES
    assert bound_of(CLIENTS_FILE).most < bound_of(MODEL_FILE).most == MOST_MODEL_BYTES


@pytest.mark.parametrize(
    ("announced", "said"),
    [
        (10, "more came than the 10 bytes that were announced"),
        (1 << 60, "model.safetensors has 17,179,869,184 at the most"),
    ],
)
def test_a_pod_that_says_more_than_a_model_leaves_nothing_behind(
    api: Kubelet,
    lockstep: Lockstep,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    announced: int,
    said: str,
) -> None:
    with_volume(api)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: Usage(1 << 62))
    files = mounted(monkeypatch, model__safetensors=MODEL)
    files.announced = announced
    ran = lockstep("model", "digits", "-o", str(tmp_path / "m"))
    assert ran.code == 1
    assert said in ran.err
    assert files.taken < 50
    assert [one.name for one in tmp_path.iterdir()] == ["kubeconfig"]
    assert pods(api) == []


def test_a_model_that_the_disk_cannot_take_is_not_begun(
    api: Kubelet, lockstep: Lockstep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with_volume(api)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: Usage(len(MODEL) - 1))
    files = mounted(monkeypatch, model__safetensors=MODEL)
    ran = lockstep("model", "digits", "-o", str(tmp_path / "m"))
    assert ran.code == 1
    assert f"a file of 2,560 bytes was announced: there is room for 2,559 in {tmp_path}" in ran.err
    assert files.taken < 50


@pytest.mark.parametrize("pieces", [[], [b"12"], [b"abc\n"], [b"x" * 100]])
def test_a_stream_without_its_size_is_no_file(pieces: list[bytes]) -> None:
    with pytest.raises(CliError, match="size should come first"):
        list(whole(iter(pieces), ANY, progress=silent))


def test_an_empty_file_is_a_file() -> None:
    assert b"".join(whole(iter([b"0\n"]), ANY, progress=silent)) == b""
