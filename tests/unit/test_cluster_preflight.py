"""What is said of a machine before anything is fetched: all that is wrong, and what to do."""

import os
import re
import subprocess
import sys
from ipaddress import IPv4Network
from pathlib import Path

import pytest
import yaml

from tests.cluster import addresses, preflight, prerequisites
from tests.cluster.errors import ClusterError
from tests.cluster.layout import RESERVED_CPU_MILLI
from tests.cluster.machine import Machine, capabilities, filesystem_of
from tests.cluster.preflight import PROGRAMS, Wanted, problems, rounded_down, summary

ROOT = Path(__file__).resolve().parents[2]
GOOD = Machine(
    system="Linux",
    architecture="x86_64",
    root=True,
    python=(3, 12),
    has_venv=True,
    programs=frozenset(PROGRAMS),
    cpus=2,
    memory_gib=7.7,
    available_gib=6.9,
    free_gib={"/root/.cache/lockstep": 40.0},
    filesystem="ext4",
    controllers=frozenset({"cpu", "memory", "pids"}),
    modules=frozenset({"overlay", "veth", "bridge", "nf_conntrack", "nf_tables"}),
)


def test_a_good_machine_gets_one_line() -> None:
    assert problems(GOOD, Wanted()) == []
    assert summary(GOOD) == (
        "this machine will do: 2 CPUs, 7.7 GiB of memory, 42.9 GB of disk free"
    )


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"system": "Darwin"}, "Darwin.*CLUSTER=existing"),
        ({"root": False, "capabilities": frozenset()}, "needs root: use sudo"),
        ({"capabilities": frozenset({"MKNOD"})}, "as in a container"),
        ({"architecture": "riscv64"}, "riscv64"),
        ({"python": (3, 9)}, r"Python 3\.9.*PYTHON="),
        ({"python": (3, 14)}, r"Python 3\.14.*PYTHON="),
        ({"has_venv": False}, "apt-get install python3-venv"),
        ({"programs": frozenset(PROGRAMS) - {"make"}}, "apt-get install make"),
        ({"programs": frozenset({"make"})}, "no apt-get to bring containerd"),
        ({"cpus": 1}, "the example needs 2"),
        ({"memory_gib": 3.9}, "8 GB are needed"),
        ({"available_gib": 4.49}, r"4\.4 GiB of memory are free.*end other programs"),
        ({"namespaces": frozenset({"net"})}, "no namespaces of kind cgroup, ipc"),
        ({"controllers": frozenset({"cpu", "pids"})}, "cgroup controller memory"),
        ({"cgroups_writable": False}, "cannot be written"),
        ({"modules": frozenset({"overlay"})}, "no veth links.*reboot"),
        ({"filesystem": "overlay"}, "XDG_CACHE_HOME"),
        ({"free_gib": {"/x": 18.0}}, r"19\.3 GB are free for /x, and 20 are needed"),
        ({"kubelet": 77}, "another Kubernetes runs here.*77.*CLUSTER=existing"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_do(change: dict[str, object], said: str) -> None:
    found = problems(GOOD._replace(**change), Wanted())  # type: ignore[arg-type]
    assert any(re.search(said, line) for line in found), found


def test_who_wants_to_go_on_is_warned_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(preflight, "check", lambda _: (["1 CPU is here"], ""))
    assert preflight.main() == 1
    assert "1 CPU is here" in (refusal := capsys.readouterr().err)
    assert "LOCKSTEP_PREFLIGHT=warn" in refusal
    with pytest.raises(ClusterError, match="1 CPU is here"):
        prerequisites.check_all()
    monkeypatch.setenv("LOCKSTEP_PREFLIGHT", "warn")
    assert preflight.main() == 0
    assert "1 CPU is here" in capsys.readouterr().err
    prerequisites.check_all()


def test_everything_comes_in_one_list() -> None:
    bad = GOOD._replace(root=False, cpus=1, memory_gib=2.0, free_gib={"/": 1.0}, python=(3, 8))
    assert len(problems(bad, Wanted())) == 5


def test_what_is_cached_needs_no_room_again() -> None:
    less = GOOD._replace(free_gib={"/": 8.0})
    assert problems(less, Wanted(first=False)) == []
    assert len(problems(less, Wanted(first=True))) == 1


def test_a_cluster_that_is_up_has_its_memory_already() -> None:
    less = GOOD._replace(available_gib=1.0)
    assert problems(less, Wanted(running=True)) == []


@pytest.mark.parametrize(("another", "wrong"), [(True, 0), (False, 1)])
def test_a_second_cluster_is_not_refused_for_what_the_first_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, another: bool, wrong: int
) -> None:
    monkeypatch.setattr(preflight, "STATE_ROOT", tmp_path / "state")
    monkeypatch.setattr(preflight, "_addresses", lambda _: ())
    less = GOOD._replace(available_gib=1.0)
    monkeypatch.setattr(preflight, "read_machine", lambda *_, **__: less)
    if another:
        (tmp_path / "state" / "first").mkdir(parents=True)
    found, _ = preflight.check({"CLUSTER": "embedded"})
    assert len(found) == wrong


def test_a_cluster_elsewhere_needs_neither_root_nor_kernel() -> None:
    guest = GOOD._replace(root=False, cpus=1, controllers=frozenset(), filesystem="overlay")
    assert problems(guest, Wanted(embedded=False)) == []


def test_a_kernel_that_does_not_tell_is_not_blamed() -> None:
    assert problems(GOOD._replace(modules=None), Wanted()) == []


@pytest.mark.parametrize(("free", "shown"), [(15.97, "15.9"), (19.99, "19.9"), (20.0, "20.0")])
def test_what_is_not_enough_does_not_look_enough(free: float, shown: str) -> None:
    assert rounded_down(free) == shown


def test_the_file_system_of_a_folder_that_is_not_there_yet(tmp_path: Path) -> None:
    table = f"a / ext4 rw\nb {tmp_path} tmpfs rw\nc {tmp_path}x xfs rw\n"
    assert filesystem_of(tmp_path / "more", table) == "tmpfs"
    assert filesystem_of(Path("/"), table) == "ext4"


def test_rights_are_read_from_a_process_status() -> None:
    assert "SYS_ADMIN" in capabilities("CapEff:\t000001fffeffffff\n")
    assert capabilities("CapEff:\t00000000a80425fb\n") == {"SYS_CHROOT", "MKNOD"}
    assert capabilities("") == frozenset()


def test_taken_addresses_are_told_before_anything_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = [addresses.Route(IPv4Network("10.0.0.0/8"), "tun0")]
    monkeypatch.setattr(addresses, "machine_routes", lambda: taken)
    (line,) = preflight._addresses({})
    assert "LOCKSTEP_ADDRESSES=172.28.0.0/14" in line
    assert list(preflight._addresses({"LOCKSTEP_ADDRESSES": "172.28.0.0/14"})) == []
    (line,) = preflight._addresses({"LOCKSTEP_ADDRESSES": "nonsense"})
    assert "no range" in line


def test_it_runs_with_nothing_but_the_standard_library(tmp_path: Path) -> None:
    """With the Python of the machine: no packages, no paths of ours."""
    code = "import sys; sys.path.insert(0, sys.argv[1]); import tests.cluster.preflight"
    argv = (sys.executable, "-S", "-I", "-c", code)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    subprocess.run([*argv, str(ROOT)], check=True, env=environment)


def test_the_example_fits_the_cpus_that_are_asked_for() -> None:
    """README's job on the default nodes: what its devices may use in all, beside the reserve."""
    job = yaml.safe_load((ROOT / "docs" / "examples" / "fashion-mnist.yaml").read_text())
    milli = sum(
        int(group["cpuAtMax"].removesuffix("m")) * group["replicas"]
        for group in job["spec"]["devices"]
    )
    assert (preflight.CPUS - 1) * 1000 < milli + RESERVED_CPU_MILLI <= preflight.CPUS * 1000


def test_readme_names_the_figures_of_the_check() -> None:
    readme = (ROOT / "README.md").read_text()
    for figure in (
        f"{preflight.CPUS} CPUs",
        f"{preflight.MEMORY_GB} GB of memory",
        f"{preflight.FREE_GB_AT_FIRST} GB of free disk",
    ):
        assert figure in " ".join(readme.split())


def test_makes_first_step_is_the_check() -> None:
    """Of every target that brings a cluster up: before the environment is made."""
    outside = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    for target in ("cluster-up", "demo", "test"):
        argv = ("make", "--dry-run", "--always-make", "PYTHON=python3", target)
        done = subprocess.run(
            argv, cwd=ROOT, env=outside, capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[0] == "python3 -m tests.cluster.preflight"
