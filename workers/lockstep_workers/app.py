"""The worker image's entry point: `python3 -m lockstep_workers cloud|edge|device|trainer`."""

import argparse
import logging
import sys
from pathlib import Path

import structlog

from lockstep_api.names import Role
from lockstep_workers.environment import Environment
from lockstep_workers.errors import WorkerError

_LAST_WORDS = Path("/dev/termination-log")


def _configure_logging(form: str) -> None:
    renderer = (
        structlog.processors.JSONRenderer()
        if form == "json"
        else structlog.dev.ConsoleRenderer(colors=False)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stdout),
    )
    logging.basicConfig(level=logging.WARNING)


def main() -> None:
    """Runs one role until it is told to stop."""
    parser = argparse.ArgumentParser(prog="lockstep-worker", description="A pod of a job.")
    parser.add_argument("role", type=Role, choices=list(Role))
    role = parser.parse_args().role
    environment = Environment()
    _configure_logging(environment.log)
    try:
        if role is Role.CLOUD:
            from lockstep_workers.cloud.main import run_cloud  # noqa: PLC0415 - a device serves nobody

            run_cloud(environment)
        elif role is Role.TRAINER:
            from lockstep_workers.policy_trainer import run_policy_trainer  # noqa: PLC0415 - nor does it need theirs

            run_policy_trainer(environment)
        elif role is Role.EDGE:
            from lockstep_workers.edge.main import run_edge  # noqa: PLC0415 - it needs no data

            run_edge(environment)
        else:
            from lockstep_workers.device.main import run_device  # noqa: PLC0415 - nor the cloud this

            run_device(environment)
    except WorkerError as error:
        if _LAST_WORDS.exists():  # in a pod: what `kubectl describe` shows
            _LAST_WORDS.write_text(str(error), encoding="utf-8")
        structlog.get_logger().error("cannot go on", error=str(error))
        raise SystemExit(1) from error


if __name__ == "__main__":
    main()
