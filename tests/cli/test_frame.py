"""The program's frame: options, errors, exit codes, and what is imported when."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import ModuleType

import pytest

from images.recipe import project_version
from lockstep_cli import completion, frame, release
from lockstep_cli.app import Commands, complete_for_kubectl
from lockstep_cli.completion import in_time
from lockstep_cli.errors import MEANINGS, CliError, Exit
from tests.support.apiserver import FakeApi, forbidden
from tests.support.cli import Lockstep, job

HEAVY = ("altair", "kubernetes", "torch", "yaml", "lockstep_operator", "lockstep_simulator")


def imported_by(*words: str) -> list[str]:
    code = (
        "import sys\n"
        f"sys.argv = ['lockstep', *{words!r}]\n"
        "from lockstep_cli.app import main\n"
        "try:\n    main()\n"
        f"finally:\n    import json\n    found = [one for one in {HEAVY!r} if one in sys.modules]\n"
        "    print(json.dumps(found), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    found: list[str] = json.loads(done.stderr.splitlines()[-1])
    return found


def test_help_imports_nothing_heavy() -> None:
    assert imported_by("--help") == []


def test_list_imports_neither_pictures_nor_torch(lockstep: Lockstep) -> None:
    words = ("list", "--kubeconfig", str(lockstep.kubeconfig))
    assert imported_by(*words) == ["kubernetes", "yaml"]


def test_help_says_what_the_exit_codes_mean(lockstep: Lockstep) -> None:
    told = lockstep("--help").out
    for code, meaning in MEANINGS.items():
        assert f"{code:>3d}  {meaning}" in told


@pytest.mark.parametrize("name", Commands.lazies)
def test_every_command_is_there_and_says_what_it_does(lockstep: Lockstep, name: str) -> None:
    done = lockstep(name, "--help")
    assert done.code == 0
    assert "Usage: lockstep " + name in done.out
    assert name in lockstep("--help").out


def test_a_wrong_command_line_is_2(lockstep: Lockstep) -> None:
    done = lockstep("lizt")
    assert done.code == Exit.USAGE
    assert "lizt" in done.err


@pytest.mark.parametrize("words", [("-n", "else", "list"), ("list", "-n", "else")])
def test_options_may_stand_before_and_after_the_command(
    lockstep: Lockstep, words: tuple[str, ...]
) -> None:
    lockstep.api.put("federatedjobs", job("there", "else"))
    lockstep.api.put("federatedjobs", job("here", "lab"))
    assert lockstep(*words, "-o", "name").lines == ["federatedjob.lockstep.dev/there"]


def test_the_namespace_is_the_contexts(lockstep: Lockstep) -> None:
    lockstep.api.put("federatedjobs", job("here", "lab"))
    lockstep.api.put("federatedjobs", job("there", "elsewhere"))
    assert lockstep("list", "-o", "name").lines == ["federatedjob.lockstep.dev/here"]
    there = lockstep("list", "-o", "name", "--context", "other")
    assert there.lines == ["federatedjob.lockstep.dev/there"]


def test_without_a_kubeconfig_it_says_what_to_set(lockstep: Lockstep, tmp_path: Path) -> None:
    done = lockstep("list", env={"KUBECONFIG": str(tmp_path / "none")})
    assert done.code == Exit.UNREACHABLE
    none = tmp_path / "none"
    assert done.err.splitlines() == [
        f"error: there is no kubeconfig {none}: set KUBECONFIG, or give --kubeconfig FILE"
    ]


def test_a_context_that_is_not_there_is_named(lockstep: Lockstep) -> None:
    done = lockstep("list", "--context", "nowhere")
    assert done.code == Exit.UNREACHABLE
    assert "nowhere" in done.err


def test_a_cluster_that_does_not_answer_is_3(api: FakeApi, tmp_path: Path) -> None:
    api.address = "http://127.0.0.1:1"
    done = Lockstep(api, api.kubeconfig(tmp_path))("list")
    assert done.code == Exit.UNREACHABLE
    assert "no answer from http://127.0.0.1:1" in done.err
    assert len(done.err.splitlines()) == 1


def test_a_right_that_is_missing_is_named(lockstep: Lockstep) -> None:
    words = 'federatedjobs.lockstep.dev is forbidden: User "me" cannot list resource'
    lockstep.api.refuse = lambda method, path: forbidden(words)
    done = lockstep("list")
    assert done.code == Exit.DENIED
    assert words in done.err
    assert "--clusterrole=edit" in done.err


def test_somebody_whom_the_cluster_does_not_know_logs_in_anew(lockstep: Lockstep) -> None:
    lockstep.api.refuse = lambda method, path: (401, "Unauthorized")
    done = lockstep("list")
    assert done.code == Exit.DENIED
    assert "log in anew" in done.err


def test_without_the_crd_it_says_how_to_install(lockstep: Lockstep) -> None:
    del lockstep.api.served["/apis/lockstep.dev/v1alpha1"]
    done = lockstep("list")
    assert done.code == Exit.NOT_FOUND
    assert "helm install lockstep charts/lockstep" in done.err


def test_the_token_of_the_kubeconfig_goes_out(lockstep: Lockstep) -> None:
    lockstep("list")
    assert lockstep.api.tokens == ["Bearer secret"]


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes `lockstep fail` end with an error."""

    def set_up(error: BaseException) -> None:
        def fail() -> None:
            raise error

        module = ModuleType("a_command_that_fails")
        module.fail = fail  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        lazy = frame.Lazy(f"{module.__name__}:fail", "Fails.", "simulate")
        monkeypatch.setitem(Commands.lazies, "fail", lazy)

    return set_up


Fails = Callable[[BaseException], None]


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (CliError("the pot is empty:\nfill it"), 1, "error: the pot is empty: fill it"),
        (CliError("late", Exit.TIMEOUT), 6, "error: late"),
        (ValueError("odd"), 1, "error: ValueError: odd (--debug shows where)"),
        (FileNotFoundError(2, "No such file", "x"), 1, "error: [Errno 2] No such file: 'x'"),
        (
            ModuleNotFoundError("No module named 'torch'", name="torch.nn"),
            1,
            "error: lockstep fail needs torch, which is not installed:"
            " pip install 'lockstep[simulate]'",
        ),
    ],
)
def test_an_error_is_one_line_and_a_code(
    lockstep: Lockstep, fails: Fails, *, error: Exception, code: int, line: str
) -> None:
    fails(error)
    done = lockstep("fail")
    assert (done.code, done.err.splitlines(), done.out) == (code, [line], "")


@pytest.mark.parametrize("words", [("--debug", "fail"), ("fail", "--debug")])
def test_debug_shows_where(lockstep: Lockstep, fails: Fails, *, words: tuple[str, ...]) -> None:
    fails(ValueError("odd"))
    with pytest.raises(ValueError, match="odd"):
        lockstep(*words)


def test_ctrl_c_is_quiet(lockstep: Lockstep, fails: Fails) -> None:
    fails(KeyboardInterrupt())
    done = lockstep("fail")
    assert (done.code, done.out, done.err) == (Exit.INTERRUPTED, "", "")


def test_a_reader_that_went_away_is_no_error(lockstep: Lockstep) -> None:
    for number in range(2000):
        lockstep.api.put("federatedjobs", job(f"job-{number}"))
    command = (sys.executable, "-m", "lockstep_cli", "list", "--kubeconfig", lockstep.kubeconfig)
    env = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("NAME")
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == Exit.BROKEN_PIPE


def test_without_an_extra_its_commands_say_which(
    lockstep: Lockstep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "lockstep_cli.simulator", raising=False)
    monkeypatch.delitem(sys.modules, "lockstep_simulator.cli", raising=False)
    monkeypatch.setitem(sys.modules, "structlog", None)
    done = lockstep("simulate", "job.yaml")
    assert done.code == 1
    assert done.err.splitlines() == [
        "error: lockstep simulate needs structlog, which is not installed:"
        " pip install 'lockstep[simulate]'"
    ]


def test_without_the_kubernetes_package_a_cluster_needs_extra_cli(
    lockstep: Lockstep, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [one for one in sys.modules if one.partition(".")[0] == "kubernetes"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "kubernetes", None)
    assert lockstep("list").err.splitlines() == [
        "error: lockstep list needs kubernetes, which is not installed: pip install 'lockstep[cli]'"
    ]


def test_it_says_which_lockstep_it_is(lockstep: Lockstep, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also from a checkout that is not installed, as the demo's environment has it."""
    told = f"lockstep {project_version()}"
    assert lockstep("--version").lines == [told]

    def none(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(release, "version", none)
    assert lockstep("--version").lines == [told]


def complete(lockstep: Lockstep, *words: str) -> list[str]:
    """What bash would offer for the last word."""
    env = {
        "_LOCKSTEP_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(("lockstep", *words)),
        "COMP_CWORD": str(len(words)),
    }
    return lockstep(env=env).out.split()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine that is busy an answer may take longer than people wait."""
    monkeypatch.setattr(completion, "PATIENCE_S", 60.0)


@pytest.mark.usefixtures("patient")
def test_the_shell_is_offered_jobs_of_the_namespace_that_was_typed(lockstep: Lockstep) -> None:
    for name, namespace in (("digits", "lab"), ("dogs", "lab"), ("cats", "lab"), ("dots", "else")):
        lockstep.api.put("federatedjobs", job(name, namespace))
    for command in ("describe", "watch", "logs", "suspend"):
        assert complete(lockstep, command, "d") == ["digits", "dogs"]
    assert complete(lockstep, "describe", "-n", "else", "d") == ["dots"]
    assert complete(lockstep, "-n", "else", "describe", "d") == ["dots"]


@pytest.mark.usefixtures("patient")
def test_the_shell_is_offered_namespaces(lockstep: Lockstep) -> None:
    for name in ("lab", "lob"):
        lockstep.api.put("namespaces", {"metadata": {"name": name}})
    assert complete(lockstep, "list", "-n", "l") == ["lab", "lob"]


@pytest.mark.usefixtures("patient")
def test_kubectl_is_offered_the_same(
    lockstep: Lockstep, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lockstep.api.put("federatedjobs", job("digits"))
    monkeypatch.setenv("KUBECONFIG", str(lockstep.kubeconfig))
    for name in ("COMP_WORDS", "COMP_CWORD", "_LOCKSTEP_COMPLETE"):
        monkeypatch.setenv(name, "")  # so that they are taken away afterwards
    monkeypatch.setattr(sys, "argv", ["kubectl_complete-lockstep", "describe", "d"])
    complete_for_kubectl()
    assert capsys.readouterr().out.split() == ["digits", ":4"]


@pytest.mark.usefixtures("patient")
def test_the_shell_is_offered_the_contexts_of_the_kubeconfig(lockstep: Lockstep) -> None:
    assert complete(lockstep, "list", "--context", "f") == ["fake"]


def test_what_cannot_be_had_is_not_offered_and_said_nothing_of() -> None:
    def broken() -> list[str]:
        raise OSError("no cluster")

    assert in_time(broken, "") == []


def test_nobody_waits_for_what_comes_late() -> None:
    asked = threading.Event()
    assert in_time(lambda: [str(asked.wait())], "", patience_s=0.01) == []
    asked.set()
