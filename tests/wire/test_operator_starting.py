"""An operator that cannot read its seed yet: it is alive and not ready, and goes on once it can."""

import asyncio

import httpx2
import pytest
from prometheus_client import CollectorRegistry

from lockstep_api.names import HEALTH_ROUTE, METRICS_ROUTE, READY_ROUTE
from lockstep_operator import authority
from lockstep_operator.config import OperatorConfig
from lockstep_operator.errors import KubeError, Unavailable
from lockstep_operator.metrics import Metrics
from lockstep_operator.probes import CannotListen, Starting, starting_probes
from lockstep_operator.serving import make_signing
from tests.support.kube import FakeKube
from tests.support.patience import PATIENCE_S
from tests.support.ports import free_port


async def test_it_answers_probes_while_it_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authority, "backoff_s", lambda failures, jitter: 0.01)
    away, asked, metrics = True, asyncio.Event(), Metrics(CollectorRegistry())

    def fail(verb: str, name: str) -> KubeError | None:
        asked.set()
        return Unavailable("the apiserver is away") if away else None

    at = f"127.0.0.1:{free_port()}"
    config = OperatorConfig.of({"tls": True, "metrics_listen": at, "lease_namespace": "ops"})
    kube = FakeKube(fail=fail)
    making = asyncio.create_task(make_signing(config, kube, metrics=metrics, stop=asyncio.Event()))
    await asyncio.wait_for(asked.wait(), PATIENCE_S)
    async with httpx2.AsyncClient(base_url=f"http://{at}") as http:
        assert (await http.get(HEALTH_ROUTE)).status_code == 200
        ready = await http.get(READY_ROUTE)
        assert (ready.status_code, ready.text) == (
            503,
            "the seed of certificates is not read yet\n",
        )
        assert "lockstep_leader" in (await http.get(METRICS_ROUTE)).text
    away = False
    assert await asyncio.wait_for(making, PATIENCE_S) is not None
    starting_probes(config.metrics_address, Starting(metrics.registry)).close()  # its port is free


async def test_a_port_that_is_taken_is_said() -> None:
    registry = CollectorRegistry()
    first = starting_probes(("127.0.0.1", 0), Starting(registry))
    try:
        with pytest.raises(CannotListen, match=rf"127\.0\.0\.1:{first.port}"):
            starting_probes(("127.0.0.1", first.port), Starting(registry))
    finally:
        first.close()


async def test_without_tls_nothing_is_kept() -> None:
    kube, metrics = FakeKube(), Metrics(CollectorRegistry())
    made = await make_signing(OperatorConfig.of({}), kube, metrics=metrics, stop=asyncio.Event())
    assert (made, kube.calls.total()) == (None, 0)
