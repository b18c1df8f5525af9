"""The operator's configuration: the environment, and options over it."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import ValidationError
from typer.testing import CliRunner

from lockstep_operator import app
from lockstep_operator.config import OperatorConfig
from lockstep_operator.core.certificates import Authority
from lockstep_operator.core.scope import claim_of
from tests.support.certificates import SEED
from tests.support.kube import FakeKube


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[OperatorConfig]:
    """What the operator would run with."""
    found: list[OperatorConfig] = []

    async def run(config: OperatorConfig) -> int:
        found.append(config)
        return 0

    monkeypatch.setattr(app, "run", run)
    monkeypatch.setattr(app, "set_up_logging", lambda *_: None)
    return found


def call(*options: str) -> Any:
    cli = typer.Typer()
    cli.command()(app.command)
    return CliRunner().invoke(cli, options)


def test_options_override_the_environment_and_what_is_not_given_does_not(
    started: list[OperatorConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCKSTEP_LISTEN", "127.0.0.1:1")
    monkeypatch.setenv("LOCKSTEP_WORKER_IMAGE", "mine:1")
    monkeypatch.setenv("LOCKSTEP_PLANNER_AUTH", "false")
    done = call(
        "--listen", "127.0.0.1:2", "--namespace", "a", "--namespace", "b", "--resync-seconds", "7",
        "--leader-elect", "--lease-namespace", "c", "--log-level", "DEBUG", "--log-format", "json",
        "--kubeconfig", "k", "--context", "x", "--planner-url", "u", "--prometheus-url", "p",
        "--metrics-listen", "127.0.0.1:3",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    (config,) = started
    given = {
        "listen": "127.0.0.1:2", "namespaces": ("a", "b"), "resync_seconds": 7.0,
        "metrics_listen": "127.0.0.1:3",
        "leader_elect": True, "lease_namespace": "c", "log_level": "DEBUG", "log_format": "json",
        "kubeconfig": "k", "context": "x", "planner_url": "u", "prometheus_url": "p",
        "worker_image": "mine:1", "planner_auth": False,
    }  # fmt: skip
    assert {name: getattr(config, name) for name in given} == given
    assert config.lease_name == OperatorConfig.model_fields["lease_name"].default


def test_every_option_of_the_command_reaches_the_configuration(
    started: list[OperatorConfig],
) -> None:
    assert call("--no-planner-auth", "--worker-image", "w:2", "--no-leader-elect").exit_code == 0
    assert (started[0].planner_auth, started[0].worker_image) == (False, "w:2")
    assert not started[0].settings().identity, "nobody could tell cloud pods whom to believe"
    assert OperatorConfig().settings().identity
    assert started[0].namespaces == ()


def test_a_job_that_is_nested_deeper_than_python_reads_is_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As deep as an apiserver keeps one; in the operator, not only in its tests."""
    deep, limit = "[" * 10_000 + "]" * 10_000, sys.getrecursionlimit()
    read: list[object] = []

    async def run(config: OperatorConfig) -> int:
        read.append(json.loads(deep))
        return 0

    monkeypatch.setattr(app, "run", run)
    monkeypatch.setattr(app, "set_up_logging", lambda *_: None)
    try:
        assert app.start({}) == 0
    finally:
        read.clear()
        sys.setrecursionlimit(limit)


def test_a_wrong_value_is_told_in_words(
    started: list[OperatorConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.start({"listen": "no port", "log_level": None}) == 2
    assert "lockstep-operator: listen: " in capsys.readouterr().err
    assert started == []


def test_with_tls_the_planner_is_where_its_certificate_says(tmp_path: Path) -> None:
    inside = tmp_path / "namespace"
    inside.write_text("ops\n")
    authority = Authority(SEED)
    settings = OperatorConfig.of({"tls": True}).settings(inside, authority=authority)
    assert settings.planner_url == "https://lockstep-operator.ops.svc:8080"
    assert settings.planner_ca == authority.of_planner("lockstep-operator.ops.svc").pem
    assert settings.authority is authority


def test_without_tls_nobody_makes_certificates(tmp_path: Path) -> None:
    settings = OperatorConfig.of({}).settings(tmp_path / "none")
    assert settings.planner_url == "http://lockstep-operator.lockstep-system.svc:8080"
    assert (settings.planner_ca, settings.authority) == (None, None)


def test_jobs_can_have_certificates_where_the_planner_has_none() -> None:
    given = OperatorConfig.of({"tls": True, "planner_url": "http://10.0.0.1:8080"})
    settings = given.settings(authority=Authority(SEED))
    assert (settings.planner_url, settings.planner_ca) == ("http://10.0.0.1:8080", None)
    assert settings.authority is not None


def test_a_planner_cannot_speak_tls_without_certificates(started: list[OperatorConfig]) -> None:
    url = "https://planner.example.org"
    with pytest.raises(
        ValidationError, match=rf"planner_url is {url}, but .* set tls, or say http"
    ):
        OperatorConfig.of({"planner_url": url})
    assert call("--planner-url", url, "--tls").exit_code == 0
    assert started[0].tls


@pytest.mark.parametrize("seconds", [0, 9.9, 31 * 86400, float("nan")])
def test_a_certificates_life_has_bounds(seconds: float) -> None:
    with pytest.raises(ValidationError, match="certificate_seconds"):
        OperatorConfig.of({"certificate_seconds": seconds})


def test_seed_and_lease_are_in_one_namespace() -> None:
    assert OperatorConfig.of({"lease_namespace": "ops"}).home() == "ops"


async def test_the_lease_says_by_which_account_it_is_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCKSTEP_ACCOUNT", "op")
    monkeypatch.setenv("LOCKSTEP_LEASE_NAMESPACE", "home")
    assert app.elector_of(OperatorConfig.of({}), FakeKube()) is None
    kube = FakeKube()
    elector = app.elector_of(OperatorConfig.of({"leader_elect": True}), kube)
    assert elector is not None
    await elector.acquire()
    (lease,) = kube.objects.values()
    assert claim_of(lease).user == "system:serviceaccount:home:op"
