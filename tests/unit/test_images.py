"""The image builder's pure parts: what counts as changed, what is pruned, how tools are called."""

import hashlib
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import grimp
import pytest

from images import buildah, debian, engines, layout
from images.cli import main, push_target, split_words
from images.command import ImageError, build_step
from images.lock import FROM_DEBIAN, ONLY_FOR_GPUS, image_requirements, requirement_name
from images.recipe import RECIPES, ROOT, Recipe, inputs_hash, project_version, reference
from tests.support.images import put_image

RECIPE = Recipe("thing", ("requirements/thing.lock", "code/thing"))
STORAGE = buildah.Storage(Path("/cache/buildah"))


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    for name, text in {
        "images/thing.Dockerfile": "FROM scratch",
        "requirements/thing.lock": "a==1",
        "code/thing/app.py": "print()",
        "code/other/app.py": "print()",
    }.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    "changed",
    [
        "images/thing.Dockerfile",
        "requirements/thing.lock",
        "code/thing/app.py",
        "code/thing/new.py",
    ],
)
def test_a_changed_input_changes_the_hash(sources: Path, changed: str) -> None:
    before = inputs_hash(RECIPE, "1", root=sources)
    (sources / changed).write_text("other")
    assert inputs_hash(RECIPE, "1", root=sources) != before


def test_a_renamed_file_changes_the_hash(sources: Path) -> None:
    before = inputs_hash(RECIPE, "1", root=sources)
    (sources / "code/thing/app.py").rename(sources / "code/thing/main.py")
    assert inputs_hash(RECIPE, "1", root=sources) != before


def test_a_new_version_changes_the_hash(sources: Path) -> None:
    assert inputs_hash(RECIPE, "1", root=sources) != inputs_hash(RECIPE, "2", root=sources)


@pytest.mark.parametrize(
    "changed", ["code/other/app.py", "code/thing/__pycache__/app.cpython-313.pyc", "README.md"]
)
def test_what_does_not_reach_the_image_leaves_the_hash(sources: Path, changed: str) -> None:
    before = inputs_hash(RECIPE, "1", root=sources)
    (sources / changed).parent.mkdir(exist_ok=True)
    (sources / changed).write_text("other")
    (sources / "code/thing/app.py").touch()
    assert inputs_hash(RECIPE, "1", root=sources) == before


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_recipes_name_what_their_dockerfiles_copy(recipe: Recipe) -> None:
    lines = (ROOT / recipe.dockerfile).read_text().splitlines()
    copies = [line.split() for line in lines if line.startswith("COPY ") and "--from" not in line]
    assert [words[1] for words in copies] == list(recipe.inputs)
    assert all((ROOT / entry).exists() for entry in recipe.inputs)


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_labels_carry_the_projects_version(recipe: Recipe) -> None:
    text = (ROOT / recipe.dockerfile).read_text()
    assert f'org.opencontainers.image.version="{project_version()}"' in text


def test_publish_names_the_image_in_full_and_drops_stale_blobs(tmp_path: Path) -> None:
    name = reference("worker", "0.1.0")
    layout.publish(
        tmp_path, put_image(tmp_path, b"base", b"old code"), reference=name, inputs="first"
    )
    old = set(layout.contents(tmp_path))
    layout.publish(
        tmp_path, put_image(tmp_path, b"base", b"new code"), reference=name, inputs="second"
    )
    files = {f"sha256:{path.name}" for path in (tmp_path / "blobs/sha256").iterdir()}
    assert files == set(layout.contents(tmp_path))
    assert len(files & old) == 2  # the base and the configuration
    index = layout.read_index(tmp_path)
    assert index is not None
    notes = index["manifests"][0]["annotations"]
    assert notes["io.containerd.image.name"] == "lockstep.local/worker:0.1.0"
    assert notes["org.opencontainers.image.ref.name"] == "lockstep.local/worker:0.1.0"


def test_an_incomplete_layout_counts_as_not_built(tmp_path: Path) -> None:
    assert layout.built_from(tmp_path) is None
    layout.publish(tmp_path, put_image(tmp_path, b"base"), reference="a/b:1", inputs="inputs")
    assert layout.built_from(tmp_path) == "inputs"
    layer = tmp_path / "blobs/sha256" / hashlib.sha256(b"base").hexdigest()
    layer.write_bytes(b"bas")
    assert layout.built_from(tmp_path) is None
    layer.unlink()
    assert layout.built_from(tmp_path) is None


def test_every_engine_builds_the_same_dockerfile() -> None:
    name = reference("worker", "0.1.0")
    built = (engines.Docker(), engines.Podman(), engines.Buildah(STORAGE))
    for engine in built:
        command = engine.build_command(RECIPES["worker"], name, refresh=False)
        assert command[0] == engine.name
        assert command[command.index("--tag") + 1] == name
        assert command[command.index("--file") + 1].endswith("images/worker.Dockerfile")
        assert command[-1] == str(ROOT)
        assert "--no-cache" not in command
        refreshed = engine.build_command(RECIPES["worker"], name, refresh=True)
        assert "--no-cache" in refreshed


def test_buildah_pulls_nothing_and_keeps_to_our_storage() -> None:
    command = engines.Buildah(STORAGE).build_command(RECIPES["worker"], "a/b:1", refresh=False)
    assert command[1:3] == ["--root", "/cache/buildah/overlay"]
    assert {"--pull=false", "BASE=localhost/debian:trixie-slim", "--layers"} <= set(command)


def test_export_leaves_layers_uncompressed() -> None:
    command = buildah.export_command(STORAGE, "a/b:1", folder=Path("/layout"))
    assert "--dest-oci-accept-uncompressed-layers" in command
    assert command[-2].startswith("containers-storage:[overlay@/cache/buildah/overlay+")
    assert command[-1] == "oci:/layout:a/b:1"


def test_the_base_is_slim_and_names_no_mirror() -> None:
    command = debian.base_command(Path("/base.tar"))
    assert command[-2:] == ["trixie", "/base.tar"]
    assert not any("://" in word for word in command)


@pytest.mark.parametrize("registry", ["registry.example.org/team", "registry.example.org/team/"])
def test_push_target(registry: str) -> None:
    target = push_target(registry, "worker", version="0.1.0")
    assert target == "registry.example.org/team/lockstep-worker:0.1.0"


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        (engines.Docker(), [["docker", "tag", "a/b:1", "r/c:1"], ["docker", "push", "r/c:1"]]),
        (engines.Podman(), [["podman", "push", "a/b:1", "r/c:1"]]),
        (engines.Buildah(STORAGE), [STORAGE.buildah("push", "a/b:1", "docker://r/c:1")]),
    ],
    ids=["docker", "podman", "buildah"],
)
def test_push_commands(
    engine: engines.Engine, expected: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[list[str]] = []
    monkeypatch.setattr(engines, "run", lambda command, **_: ran.append(command))
    monkeypatch.setattr(buildah, "release", lambda _: None)
    engine.push("a/b:1", "r/c:1", log=Path("log"))
    assert ran == expected


def test_words_name_a_command_and_images() -> None:
    everything = list(RECIPES.values())
    assert split_words([]) == ("build", everything)
    assert split_words(["push"]) == ("push", everything)
    assert split_words(["worker"]) == ("build", [RECIPES["worker"]])
    with pytest.raises(ImageError, match="no image 'wroker'"):
        split_words(["wroker"])


def test_push_without_a_registry_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["build.py", "push"])
    assert main() == 1
    assert capsys.readouterr().err.splitlines() == [
        "images: push where? Say --registry registry.example.org/team"
    ]


def test_without_apt_the_missing_packages_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(ImageError, match="needs buildah skopeo mmdebstrap"):
        debian.ensure_packages(tmp_path / "log")


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("[4/4] STEP 3/9: COPY --from=code /a /b\n", "COPY --from=code /a /b"),
        ("STEP 2/9: RUN apt-get update  && true\n", "RUN apt-get update && true"),
        ("#7 [stage-3 2/4] RUN apt-get update\n", "RUN apt-get update"),
        ("STEP 4/9: USER 65532:65532\n", None),
        ("Setting up python3-torch\n", None),
    ],
)
def test_steps_of_every_engine_are_shown(line: str, step: str | None) -> None:
    assert build_step(line) == step


def test_the_workers_lock_starts_without_what_debian_brings() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text()
    worker = {requirement_name(each) for each in image_requirements(pyproject, "worker")}
    assert {"pydantic", "uvicorn", "safetensors"} <= worker
    assert not {"torch", "numpy"} & worker
    operator = {requirement_name(each) for each in image_requirements(pyproject, "operator")}
    assert {"kopf", "numpy"} <= operator


def test_the_worker_holds_what_its_code_imports_and_nothing_else() -> None:
    pyproject = (ROOT / "pyproject.toml").read_text()
    held = image_requirements(pyproject, "worker") + sorted(FROM_DEBIAN["worker"])
    ours = [Path(each).name for each in RECIPES["worker"].inputs if "/lockstep_" in each]
    graph = grimp.build_graph(*ours, include_external_packages=True, cache_dir=None)
    reached = {name.partition(".")[0] for name in graph.find_upstream_modules(ours[-1], True)}
    others = reached - {*ours, *sys.stdlib_module_names}
    distributions = packages_distributions()
    assert ours[-1] == "lockstep_workers"
    assert {requirement_name(one) for name in others for one in distributions[name]} == {
        requirement_name(each) for each in held
    }


@pytest.mark.parametrize("image", ["operator", "worker", "demo"])
def test_locks_hold_hashes_and_neither_torch_nor_addresses(image: str) -> None:
    text = (ROOT / f"requirements/{image}.lock").read_text()
    assert "://" not in text
    assert "torch==" not in text
    pinned = [line for line in text.splitlines() if "==" in line]
    assert text.replace("\\\n", "").count("\n") == len(pinned)
    assert all(line.rstrip().endswith("\\") for line in pinned)  # hashes follow


def test_the_images_run_the_versions_that_the_tests_run() -> None:
    dev = (ROOT / "requirements/dev.lock").read_text()
    for image in ("operator", "worker", "demo"):
        pinned = [
            line.removesuffix(" \\").partition(" ;")[0]  # where a package applies may differ
            for line in (ROOT / f"requirements/{image}.lock").read_text().splitlines()
            if "==" in line
        ]
        assert [each for each in pinned if f"\n{each} " not in f"\n{dev}"] == []


def test_the_developers_environment_leaves_out_what_only_a_gpu_uses() -> None:
    lines = (ROOT / "requirements/dev.lock").read_text().splitlines()
    pinned = {line.partition("==")[0] for line in lines if "==" in line}
    assert "torch" in pinned
    assert not set(ONLY_FOR_GPUS) & pinned
    (install,) = [
        line
        for line in (ROOT / "Makefile").read_text().splitlines()
        if "dev.lock" in line and "pip" in line
    ]
    assert "--no-deps" in install  # else torch would bring them


def test_torch_works_without_what_only_a_gpu_uses() -> None:
    """In a process where these cannot be imported."""
    code = """
import sys
sys.modules.update(dict.fromkeys(("triton", "cuda")))
import torch
print(float((torch.ones(2, 2) @ torch.ones(2, 2)).sum()))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "8.0\n"
