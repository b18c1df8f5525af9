"""A release: the version stands in known places only, and a release that fails changes nothing."""

import io
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from images.command import ImageError
from images.recipe import ROOT, project_version
from images.release import Making, archive, checksums, release, repack
from images.versions import CHANGELOG, PATHS, PLACES, found, stamped

OURS = re.compile(r"lockstep\.local/[a-z-]+:\d|image\.version=|^(app)?version *[:=]|^## \[\d", re.I)
"""Lines in which a version is Lockstep's."""
FOLDERS = ("charts", "crds", "docs", "images", "operator", "tests", "workers")
TEXT = {"", ".Dockerfile", ".json", ".md", ".py", ".toml", ".tpl", ".txt", ".yaml", ".yml"}
ELSEWHERE = ("tests/unit/test_images.py", "tests/cluster/kubeall/", CHANGELOG)
"""Versions of others, and examples of names."""


def ours() -> list[str]:
    """Files of the repository in which Lockstep's version might stand."""
    top = [path for path in ROOT.iterdir() if path.is_file()]
    below = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.is_file()]
    names = (str(path.relative_to(ROOT)) for path in (*top, *below) if path.suffix in TEXT)
    return [name for name in names if name not in PATHS and not name.startswith(ELSEWHERE)]


def git(root: Path, *words: str) -> str:
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    done = subprocess.run(
        ("git", *identity, *words), cwd=root, check=True, capture_output=True, text=True
    )
    return done.stdout


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository with the files that a release changes."""
    root = tmp_path / "tree"
    for path in PATHS:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text((ROOT / path).read_text())
    (root / CHANGELOG).write_text("# Changelog\n\n## [Unreleased]\n\n- A thing.\n")
    (root / ".gitignore").write_text("build/\n")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "all")
    return root


def one_file(making: Making) -> None:
    (making.out / f"thing-{making.version}.txt").write_text(making.version)


def broken(_: Making) -> None:
    raise ImageError("the oven is cold")


def made(tree: Path, version: str, *steps: object, day: str = "2030-01-02") -> Path:
    return release(version, root=tree, day=day, steps=steps)  # type: ignore[arg-type]


def test_all_places_have_the_same_version() -> None:
    texts = {place.path: (ROOT / place.path).read_text() for place in PLACES}
    said = {place: found(place, texts[place.path]) for place in PLACES}
    assert set(said.values()) == {project_version()}


def test_lockstep_s_version_stands_nowhere_else() -> None:
    version = project_version()
    odd = []
    for path in ours():
        lines = (ROOT / path).read_text(encoding="utf-8", errors="replace").splitlines()
        odd += [f"{path}: {line}" for line in lines if version in line and OURS.search(line)]
    assert odd == [], "derive it from images.recipe.project_version, or name it in images.versions"


def test_a_release_sets_the_version_everywhere_and_leaves_its_files(tree: Path) -> None:
    folder = made(tree, "0.2.0", one_file, checksums)
    assert folder == tree / "build" / "release"
    assert {path.name for path in folder.iterdir()} == {"thing-0.2.0.txt", "SHA256SUMS"}
    subprocess.run(("sha256sum", "--check", "--quiet", "SHA256SUMS"), cwd=folder, check=True)
    assert project_version(tree) == "0.2.0"
    assert {found(place, (tree / place.path).read_text()) for place in PLACES} == {"0.2.0"}
    changelog = (tree / CHANGELOG).read_text()
    assert changelog == "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2030-01-02\n\n- A thing.\n"


def test_a_release_that_is_made_again_is_the_same(tree: Path) -> None:
    made(tree, "0.2.0", one_file)
    changed = git(tree, "diff")
    made(tree, "0.2.0", one_file, day="2030-01-03")
    assert git(tree, "diff") == changed
    git(tree, "commit", "--quiet", "--all", "--message", "Release 0.2.0")
    made(tree, "0.2.0", one_file)
    assert git(tree, "status", "--porcelain") == ""


def test_a_release_that_fails_leaves_all_as_it_was(tree: Path) -> None:
    (tree / "build" / "release").mkdir(parents=True)
    (tree / "build" / "release" / "of-before.txt").touch()
    with pytest.raises(ImageError, match="the oven is cold"):
        made(tree, "0.2.0", one_file, broken)
    assert git(tree, "status", "--porcelain") == ""
    build = [path.name for path in (tree / "build").rglob("*") if path.is_file()]
    assert build == ["of-before.txt"]


@pytest.mark.parametrize("version", ["", "1", "1.2", "v1.2.3", "1.2.3rc1", "1.2.03"])
def test_what_is_no_version_is_refused(tree: Path, version: str) -> None:
    with pytest.raises(ImageError, match=f"VERSION='{version}' is no version"):
        made(tree, version, one_file)


@pytest.mark.parametrize("path", ["pyproject.toml", CHANGELOG, "new.txt"])
def test_a_tree_with_changes_is_refused_with_their_names(tree: Path, path: str) -> None:
    with (tree / path).open("a") as file:
        file.write("\n# mine\n")
    before = (tree / path).read_text()
    with pytest.raises(ImageError, match=f"not committed: {re.escape(path)};"):
        made(tree, "0.2.0", one_file)
    assert (tree / path).read_text() == before


def test_a_release_of_which_the_changelog_says_nothing_is_refused(tree: Path) -> None:
    (tree / CHANGELOG).write_text("# Changelog\n\n## [Unreleased]\n\n## [0.1.0] - 2029-01-01\n")
    git(tree, "commit", "--quiet", "--all", "--message", "nothing new")
    with pytest.raises(ImageError, match=r"CHANGELOG\.md says nothing of 0\.2\.0"):
        made(tree, "0.2.0", one_file)


def test_only_the_version_of_a_file_is_changed() -> None:
    texts = {path: (ROOT / path).read_text() for path in PATHS}
    new = stamped(texts, "77.88.99", day="2030-01-02")
    back = {path: text.replace("77.88.99", project_version()) for path, text in new.items()}
    assert {p: t for p, t in back.items() if p != CHANGELOG and t != texts[p]} == {}


def test_an_archive_depends_on_names_and_contents_alone(tmp_path: Path) -> None:
    packed = []
    for name in ("a", "b"):
        folder = tmp_path / name / "blobs"
        folder.mkdir(parents=True)
        (folder / "one").write_text("1")
        (folder / "one").chmod(0o600 if name == "a" else 0o640)
        archive(tmp_path / name, tmp_path / f"{name}.tar", 1_000)
        packed.append((tmp_path / f"{name}.tar").read_bytes())
    assert packed[0] == packed[1]
    with tarfile.open(fileobj=io.BytesIO(packed[0])) as file:
        assert file.getnames() == ["blobs", "blobs/one"]


def test_a_package_that_another_program_made_does_not_tell_when(tmp_path: Path) -> None:
    packed = []
    for seconds in (1_000, 2_000):
        path = tmp_path / f"{seconds}.tar.gz"
        with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as file:
            entry = tarfile.TarInfo("lockstep/run")
            entry.size, entry.mtime, entry.mode, entry.uname = 2, seconds + 0.5, 0o775, "me"
            file.addfile(entry, io.BytesIO(b"hi"))
        repack(path, 3_000)
        packed.append(path.read_bytes())
    assert packed[0] == packed[1]
    with tarfile.open(fileobj=io.BytesIO(packed[0])) as file:
        content = file.extractfile("lockstep/run")
        assert content is not None
        assert content.read() == b"hi"
        assert (file.getmember("lockstep/run").mode, file.getmember("lockstep/run").mtime) == (
            0o755,
            3_000,
        )
