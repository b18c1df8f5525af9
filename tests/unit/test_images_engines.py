"""Which engine builds, by what it can do; and what engines save, made one layout."""

import gzip
import hashlib
import json
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from images import buildah, choice, debian, engines, layout
from images.cli import wanted_engine
from images.command import ImageError, unpack
from images.recipe import RECIPES
from tests.support.images import PlayedEngine, classic_archive, fails, put_blob, put_image

DOCKER_20 = PlayedEngine(flags=(*PlayedEngine().flags, "--progress", "--pull", "--no-cache"))
DOCKER = replace(DOCKER_20, flags=(*DOCKER_20.flags, "--provenance", "--load"))


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for played engines, before all else in PATH; each saves one archive."""
    classic_archive(tmp_path / "saved.tar", b"base", b"code")
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("tar", "cat", "mkdir"):
        (folder / tool).symlink_to(Path("/bin") / tool)
    monkeypatch.setenv("PATH", str(folder))
    return folder


def choose(cache: Path, wanted: str | None = None) -> engines.Engine:
    among = choice.openers(cache)
    return choice.choose(
        wanted, cache, log=cache / "logs" / "engine.log", refresh=False, among=among
    )


def saving(programs: Path, engine: PlayedEngine) -> PlayedEngine:
    return replace(engine, saves=programs.parent / "saved.tar")


@pytest.mark.parametrize(
    ("engine", "asked"),
    [
        (DOCKER_20, {"--progress=plain"}),
        (DOCKER, {"--progress=plain", "--provenance=false", "--load"}),
    ],
    ids=["docker 20.10", "docker with buildx"],
)
def test_docker_is_asked_only_for_what_it_knows(
    programs: Path, tmp_path: Path, engine: PlayedEngine, asked: set[str]
) -> None:
    saving(programs, engine).install(programs, "docker")
    chosen = choose(tmp_path / "cache")
    assert isinstance(chosen, engines.Docker)
    command = chosen.build_command(RECIPES["worker"], "a/b:1", refresh=False)
    assert asked == {"--progress=plain", "--provenance=false", "--load"} & set(command)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (replace(DOCKER, daemon=fails("Cannot connect to it")), "Cannot connect to it"),
        (replace(DOCKER, builder=fails("buildx is missing")), "buildx is missing"),
        (replace(DOCKER, flags=("--file", "--tag")), "its build knows no --secret"),
        (replace(DOCKER, base=fails("pull access denied")), "pull access denied"),
        (replace(DOCKER, saves=Path("other.tar")), "neither an OCI layout nor an archive"),
    ],
    ids=["no daemon", "no buildx", "no secrets", "no base", "saves something else"],
)
def test_an_engine_that_cannot_build_gives_way_to_the_next_and_one_line_says_why(
    programs: Path,
    tmp_path: Path,
    broken: PlayedEngine,
    reason: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with tarfile.open(programs.parent / "other.tar", "w") as other:
        other.add(__file__, "readme")
    replace(broken, saves=programs.parent / broken.saves).install(programs, "docker")
    saving(programs, PlayedEngine()).install(programs, "podman")
    assert choose(tmp_path / "cache").name == "podman"
    (line,) = [each for each in capsys.readouterr().out.splitlines() if "engine: " in each]
    assert line.startswith("engine: podman; docker: ")
    assert reason in line
    assert "LOCKSTEP_IMAGE_ENGINE=docker|podman|buildah chooses" in line


def test_when_no_engine_can_build_each_says_what_it_lacks(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace(DOCKER, daemon=fails("Cannot connect to it")).install(programs, "docker")
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ImageError) as caught:
        choose(tmp_path / "cache")
    head, *reasons = str(caught.value).splitlines()
    assert head.startswith("no engine can build the images; mend one of these")
    assert reasons == [
        "  docker: Cannot connect to it",
        "  podman: not installed",
        "  buildah: needs root: run this as root",
    ]


@pytest.mark.parametrize("wanted", ["docker", "podman"])
def test_an_engine_that_was_asked_for_and_cannot_build_is_named_and_no_other_is_taken(
    programs: Path, tmp_path: Path, wanted: str
) -> None:
    other = {"docker": "podman", "podman": "docker"}[wanted]
    saving(programs, DOCKER).install(programs, other)
    with pytest.raises(ImageError, match=f"{wanted}, which was asked for, cannot build: not inst"):
        choose(tmp_path / "cache", wanted)


def test_the_environment_names_an_engine_and_the_command_line_another() -> None:
    asked = {"LOCKSTEP_IMAGE_ENGINE": "podman"}
    assert wanted_engine(None, {}) is None
    assert wanted_engine(None, {"LOCKSTEP_IMAGE_ENGINE": ""}) is None
    assert wanted_engine(None, asked) == "podman"
    assert wanted_engine("docker", asked) == "docker"
    with pytest.raises(ImageError, match="LOCKSTEP_IMAGE_ENGINE=dcoker is no engine: say docker,"):
        wanted_engine(None, {"LOCKSTEP_IMAGE_ENGINE": "dcoker"})


def test_buildah_needs_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ImageError, match="needs root: run this as root"):
        debian.ensure_packages(tmp_path / "log")


def test_adopt_takes_the_blobs_of_another_layout(tmp_path: Path) -> None:
    exported, folder = tmp_path / "exported", tmp_path / "kept"
    (folder / "blobs").mkdir(parents=True)
    layout.publish(exported, put_image(exported, b"base"), reference="a/b:1", inputs="inputs")
    layout.publish(folder, layout.adopt(exported, folder), reference="a/b:1", inputs="inputs")
    assert layout.built_from(folder) == "inputs"


def test_adopt_refuses_what_is_no_layout(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="neither an OCI layout nor an archive"):
        layout.adopt(tmp_path, tmp_path)


def unpacked(archive: Path, folder: Path) -> Path:
    folder.mkdir()
    unpack(["cat", str(archive)], folder, log=folder.parent / "log")
    return folder


def test_what_docker_before_25_saves_becomes_the_same_layout(tmp_path: Path) -> None:
    packed = gzip.compress(b"packed")
    classic_archive(tmp_path / "saved.tar", b"base", packed, twice=True)
    folder = tmp_path / "kept"
    saved = layout.adopt(unpacked(tmp_path / "saved.tar", tmp_path / "saved"), folder)
    layout.publish(folder, saved, reference="a/b:1", inputs="inputs")
    assert layout.built_from(folder) == "inputs"
    manifest = json.loads(layout.blob(folder, saved["digest"]).read_text())
    base = f"sha256:{hashlib.sha256(b'base').hexdigest()}"
    kinds = [layer["mediaType"].rpartition(".")[2] for layer in manifest["layers"]]
    assert [layer["digest"] for layer in manifest["layers"]][::2] == [base, base]
    assert kinds == ["tar", "tar+gzip", "tar"]
    assert layout.blob(folder, manifest["layers"][1]["digest"]).read_bytes() == packed


def test_below_an_index_of_platforms_the_image_that_is_there_is_taken(tmp_path: Path) -> None:
    exported, folder = tmp_path / "exported", tmp_path / "kept"
    provenance = {**put_image(exported, b"facts"), "platform": {"os": "unknown"}}
    elsewhere = {"mediaType": provenance["mediaType"], "digest": "sha256:absent", "size": 1}
    image = put_image(exported, b"base")
    every = [provenance, {**elsewhere, "platform": {"os": "linux"}}]
    index = {"manifests": [*every, {**image, "platform": {"os": "linux"}}]}
    top = put_blob(exported, json.dumps(index).encode())
    kind = "application/vnd.oci.image.index.v1+json"
    top_index = {"schemaVersion": 2, "manifests": [{**top, "mediaType": kind}]}
    (exported / "index.json").write_text(json.dumps(top_index))
    saved = layout.adopt(exported, folder)
    layout.publish(folder, saved, reference="a/b:1", inputs="inputs")
    assert saved == image
    assert layout.built_from(folder) == "inputs"


def test_an_engine_that_fails_while_it_saves_is_an_error_with_its_words(tmp_path: Path) -> None:
    command = ["sh", "-c", "echo 'no space left' >&2; exit 3"]
    with pytest.raises(ImageError, match=r"(?s)sh failed with code 3.*no space left"):
        unpack(command, tmp_path, log=tmp_path / "log")


def test_what_an_interrupted_build_left_in_buildahs_storage_goes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(debian, "ensure_packages", lambda _: None)
    monkeypatch.setattr(buildah, "run", lambda command, **_: ran.append(command))
    monkeypatch.setattr(buildah, "has_image", lambda *_: True)
    storage = buildah.Storage(tmp_path)
    buildah.prepare(storage, tmp_path / "log", refresh=False)
    assert ran == [storage.buildah("rm", "--all")]
