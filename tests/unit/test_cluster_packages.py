"""Installing packages leaves the machine's services as they are."""

from pathlib import Path

import pytest

from tests.cluster import modules, packages
from tests.cluster.layout import Layout
from tests.cluster.runtime import _config


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """A machine with systemd, whose files are in a folder; what is run on it."""
    made: list[tuple[str, ...]] = []
    monkeypatch.setattr(packages, "POLICY", tmp_path / "policy-rc.d")
    monkeypatch.setattr(packages, "_UNITS", (tmp_path,))
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(packages, "run", lambda *words, **_: made.append(words))
    return made


def test_a_new_service_is_neither_started_nor_enabled(
    tmp_path: Path, calls: list[tuple[str, ...]]
) -> None:
    with packages.without_new_service():
        assert "exit 101" in packages.POLICY.read_text()
        assert packages.POLICY.stat().st_mode & 0o111
        (tmp_path / packages.SERVICE).touch()
    assert not packages.POLICY.exists()
    assert calls == [("systemctl", "--quiet", "disable", "containerd.service")]


def test_a_service_that_was_there_is_left_as_it_is(
    tmp_path: Path, calls: list[tuple[str, ...]]
) -> None:
    (tmp_path / packages.SERVICE).touch()
    packages.POLICY.write_text("theirs")
    with packages.without_new_service():
        assert packages.POLICY.read_text() == "theirs"
    assert packages.POLICY.read_text() == "theirs"
    assert calls == []


def test_the_policy_goes_even_if_the_installation_fails(calls: list[tuple[str, ...]]) -> None:
    with pytest.raises(RuntimeError), packages.without_new_service():
        raise RuntimeError
    assert not packages.POLICY.exists()


def test_conntrack_is_loaded_before_kube_proxy_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, ...]] = []
    monkeypatch.setattr("shutil.which", lambda name, path="": f"/sbin/{name}")
    monkeypatch.setattr(modules, "run", lambda *words, **_: made.append(words))
    modules.load_modules()
    ((program, *words),) = made
    assert program == "/sbin/modprobe"
    assert "nf_conntrack" in words


def test_a_machine_without_modprobe_has_all_built_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name, path="": None)
    modules.load_modules()


def test_a_node_takes_no_socket_of_the_machines_own_containerd(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tests.cluster.runtime.cni_folder", lambda: Path("/opt/cni/bin"))
    layout = Layout()
    text = _config(layout, layout.nodes[0])
    assert "io.containerd.nri.v1.nri" in text
    for line in text.splitlines():
        if "/run" in line:
            assert str(layout.state) in line
