"""Mode hierarchical with the real processes: what comes out is what comes out without edges."""

from pathlib import Path

import pytest

from lockstep_api.settings import JobSettings
from lockstep_api.spec import StrategyName, StrategySpec
from lockstep_workers.learning.strategies import build_strategy
from tests.support.one_process import play
from tests.wire.processes import run_to_the_end
from tests.wire.signing import Signer

SOON_S = 12.0
"""Seconds of a certificate, of which eight pass before it is renewed."""
CALIBRATED = StrategySpec(name=StrategyName.CALIBRATED)
SCAFFOLD = StrategySpec(name=StrategyName.SCAFFOLD, server_momentum=0.9, server_learning_rate=0.5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "kills", "tls"),
    [
        (StrategySpec(), {2: ("e-1",), 4: ("cloud",), 5: ("d-3", "e-0")}, True),
        (CALIBRATED, {2: ("d-1",), 3: ("e-0",), 5: ("cloud", "e-1")}, False),
        (SCAFFOLD, {}, False),
    ],
    ids=["fedavg", "calibrated", "scaffold with server momentum"],
)
async def test_edges_change_no_bit_nor_does_who_is_killed(
    tmp_path: Path, strategy: StrategySpec, kills: dict[int, tuple[str, ...]], tls: bool
) -> None:
    """Two edges and six devices against the same rounds in one process, without any pods.

    With TLS certificates are renewed again and again meanwhile.
    """
    signer = Signer(life_s=SOON_S) if tls else None
    model, reports = await run_to_the_end(
        tmp_path, kills, strategy=strategy, momentum=0.0, devices=6, edges=2, signer=signer
    )
    job = JobSettings.model_validate_json((tmp_path / "job.json").read_bytes())
    method = build_strategy(job.strategy, momentum=0.0)
    expected = play(job, tmp_path / "datasets", strategy=method, rounds=6, steps=20)
    assert model.endswith(expected.tobytes())
    for report in reports:
        assert len(report.clients) == 6
        assert report.lost == []
        assert sum(cluster.clients for cluster in report.clusters) == 6
