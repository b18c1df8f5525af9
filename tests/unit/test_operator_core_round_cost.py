"""What rounds cost beside the least that they could have cost."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lockstep_allocator.bandwidth import Trace
from lockstep_allocator.fleet import Fleet
from lockstep_allocator.optimum import optimum
from lockstep_allocator.traces import TraceSet
from lockstep_api.spec import FederatedJobSpec
from lockstep_api.wire import ClientReport
from lockstep_operator.core.allocate import groups_by_client
from lockstep_operator.core.insight import Member, devices_of
from lockstep_operator.core.round_cost import round_cost
from tests.support.recorded import federated, split
from tests.support.rounds import a_report, an_update
from tests.support.tiered import group

WEIGHT = 0.3


def spec(**energy: Any) -> FederatedJobSpec:
    """Three devices of a core, from 0.2 to 2 GHz."""
    return FederatedJobSpec.model_validate(
        {
            "model": {"name": "mlp"}, "data": {"name": "fashion-mnist"},
            "training": {"rounds": 3}, "allocation": {"energyWeight": WEIGHT},
            "devices": [group("d", replicas=3, energy=energy)],
        }
    )  # fmt: skip


def met(
    client: str, *, work: float, ghz: float, upload_s: float, mbit: float = 8.0
) -> ClientReport:
    """A device that had this frequency: a core at 2 GHz does a core-second in a second."""
    compute_s = work * 2 / ghz
    return ClientReport(
        update=an_update(client, cpu_seconds=work, frequency_ghz=ghz, compute_seconds=compute_s),
        arrived_seconds=compute_s + upload_s,
        upload_seconds=upload_s,
        bytes=int(mbit * 1e6 / 8),
    )


def test_what_was_spent_is_seconds_and_weighted_joules() -> None:
    done = a_report(met("d-0", work=1.0, ghz=2.0, upload_s=1.0), seconds=4.0)
    found = round_cost(spec(kappa=1e-27, idleWatts=0.5, transmitWatts=3.0), done)
    assert found is not None
    joules = 2 * 2**2 + 0.5 * 4.0 + 3.0 * 1.0  # κ·cycles·f², idling, sending
    assert found.spent == pytest.approx(4.0 + WEIGHT * joules)


@settings(max_examples=25)
@given(
    work=st.tuples(*[st.floats(0.1, 5)] * 3),
    ghz=st.tuples(*[st.floats(0.2, 2)] * 3),
    upload_s=st.tuples(*[st.floats(0.1, 5)] * 3),
)
def test_the_optimum_is_that_of_the_bandwidths_that_were_met(
    work: tuple[float, ...], ghz: tuple[float, ...], upload_s: tuple[float, ...]
) -> None:
    """The allocator's own search over traces that are constant finds the same."""
    job, names = spec(kappa=1e-27, idleWatts=0.1), [f"d-{i}" for i in range(3)]
    clients = [
        met(name, work=w, ghz=f, upload_s=u)
        for name, w, f, u in zip(names, work, ghz, upload_s, strict=True)
    ]
    seconds = max(one.arrived_seconds for one in clients)
    found = round_cost(job, a_report(*clients, seconds=seconds))
    members = [Member(name, groups_by_client(job)[name], 1) for name in names]
    devices = devices_of(members, np.array(work), sizes=np.full(3, 8.0), energy_weight=WEIGHT)
    links = [Trace.constant(8.0 / u) for u in upload_s]
    traces = TraceSet.of(links, least_mbps=0.1, most_mbps=1e3)
    loop_s = max(one.duration_s for one in links)
    fleet = Fleet(devices, traces, which=np.arange(3)[None], offset_s=np.full((1, 3), loop_s))
    best = optimum(fleet, np.zeros((1, 1)))
    assert found is not None
    assert found.optimum == pytest.approx(float(best.cost[0]), rel=1e-3)
    assert found.optimum <= found.spent * (1 + 1e-9)


def test_what_came_after_the_last_update_is_no_fault_of_frequencies() -> None:
    clients = [met("d-0", work=1.0, ghz=2.0, upload_s=1.0), met("d-1", work=1, ghz=1, upload_s=1)]
    job = spec(kappa=1e-27, idleWatts=0.5)
    first, later = (round_cost(job, a_report(*clients, seconds=s)) for s in (3.0, 13.0))
    assert first is not None
    assert later is not None
    more = 10.0 * (1 + WEIGHT * 0.5 * 2)
    assert later.spent - first.spent == pytest.approx(more)
    assert later.optimum - first.optimum == pytest.approx(more)


def test_a_round_without_updates_cost_nothing_that_could_be_compared() -> None:
    assert round_cost(spec(), a_report(lost=["d-0"])) is None


def test_updates_of_clients_that_the_job_does_not_have_cost_nothing() -> None:
    own, other = (met(name, work=1.0, ghz=1.0, upload_s=1.0) for name in ("d-0", "x-0"))
    assert round_cost(spec(), a_report(other)) is None
    assert round_cost(spec(), a_report(own, other)) == round_cost(spec(), a_report(own))


@pytest.mark.parametrize(
    "odd",
    [
        met("d-0", work=0.0, ghz=1.0, upload_s=0.0),
        met("d-0", work=1e6, ghz=0.5, upload_s=1e6),
        met("d-0", work=1e-12, ghz=10.0, upload_s=0.0, mbit=0.0),
    ],
)
def test_figures_that_no_device_has_make_no_optimum_that_is_dearer(
    odd: ClientReport,
) -> None:
    found = round_cost(spec(), a_report(odd, met("d-1", work=1.0, ghz=1.0, upload_s=1.0)))
    assert found is None or found.optimum <= found.spent


@pytest.mark.parametrize("job", [federated(), split()], ids=["federated", "split"])
def test_rounds_of_jobs_never_cost_less_than_they_could(job: Any) -> None:
    costs = [round_cost(job.spec, one) for one in job.records if one.clients]
    assert len(costs) > 1
    for cost in costs:
        assert cost is not None
        assert 0 < cost.optimum <= cost.spent
