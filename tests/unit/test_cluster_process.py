"""Knowing processes again, and whose they are."""

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.cluster.process import ProcessId, is_dead, recorded, start_ticks, stop
from tests.cluster.teardown import belongs_to, mounts_below

STATE = Path("/var/lib/lockstep-cluster/lockstep")
STAT = "42 (odd ) (name) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 98765 0 0"


def test_the_start_time_is_found_behind_any_name() -> None:
    assert start_ticks(STAT) == 98765
    assert not is_dead(STAT)
    assert is_dead(STAT.replace(") S", ") Z"))


def test_a_living_process_is_known_again() -> None:
    identity = ProcessId.of(os.getpid())
    assert identity is not None
    assert identity.alive


FIRST_THREAD_ENDS = """
import ctypes, threading
threading.Thread(target=threading.Event().wait).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_process_lives_as_long_as_its_last_thread() -> None:
    with subprocess.Popen([sys.executable, "-c", FIRST_THREAD_ENDS]) as child:
        stat = Path(f"/proc/{child.pid}/stat")
        while ") Z" not in stat.read_text():
            time.sleep(0.01)
        identity = ProcessId.of(child.pid)
        assert identity is not None
        stop([identity])
        assert not identity.alive


@pytest.mark.parametrize("change", [{"started": 1}, {"boot": "another"}])
def test_a_reused_number_is_not_taken_for_ours(change: dict[str, int | str]) -> None:
    identity = ProcessId.of(os.getpid())
    assert identity is not None
    stranger = replace(identity, **change)  # type: ignore[arg-type]
    assert not stranger.alive
    stop([stranger])  # must not end this test


def test_stop_ends_a_process() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        identity = ProcessId.of(child.pid)
        assert identity is not None
        stop([identity], grace_s=5)
        assert not identity.alive


def test_records_survive_a_torn_one(tmp_path: Path) -> None:
    identity = ProcessId(1, 2, "boot")
    (tmp_path / "good.json").write_text(json.dumps(asdict(identity)))
    (tmp_path / "torn.json").write_text('{"pid": 1')
    assert recorded(tmp_path) == {"good": identity}


@pytest.mark.parametrize(
    ("line", "ours"),
    [
        (f"containerd --config {STATE}/nodes/a/containerd.toml", True),
        (f"/x/kubeall etcd --data-dir={STATE}/etcd", True),
        (f"containerd-shim-runc-v2 -address {STATE}/nodes/a/containerd.sock", True),
        (f"/x/bin/python -m tests.cluster.enforcing lockstep {STATE}", True),
        (f"/x/bin/python -m tests.cluster.enforcing lockstep2 {STATE}2", False),
        (f"/x/bin/python -m http.server --directory {STATE}", False),
        (f"kubeall kubelet --config={STATE}2/nodes/a/kubelet.json", False),
        (f"less {STATE}/log/etcd.log", False),
        ("containerd", False),
    ],
)
def test_only_our_programs_in_our_folder_are_ours(line: str, ours: bool) -> None:
    names = {"containerd", "kubeall", "containerd-shim-runc-v2"}
    assert belongs_to(line.split(), STATE, names) is ours


def test_mounts_are_found_with_spaces_and_in_order() -> None:
    table = f"a {STATE}/x/y t\nb {STATE}/x\\040z t\nc {STATE}2/x t\nd {STATE}/x t\n"
    assert mounts_below(STATE, table) == [f"{STATE}/x", f"{STATE}/x z", f"{STATE}/x/y"]
