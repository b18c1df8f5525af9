"""The operator's configuration: the environment, and options over it."""

from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from lockstep_operator import app
from lockstep_operator.config import OperatorConfig


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
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    (config,) = started
    given = {
        "listen": "127.0.0.1:2", "namespaces": ("a", "b"), "resync_seconds": 7.0,
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


def test_a_wrong_value_is_told_in_words(
    started: list[OperatorConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.start({"listen": "no port", "log_level": None}) == 2
    assert "lockstep-operator: listen: " in capsys.readouterr().err
    assert started == []
