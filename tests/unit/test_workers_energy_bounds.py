"""Energy of devices is held against their power and the time that was seen; honest ones pass."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lockstep_api.settings import GroupSettings, JobSettings
from lockstep_api.status import EnergyJoules
from lockstep_api.wire import ClientReport
from lockstep_workers.device.spending import Account, Spent
from lockstep_workers.learning.energy_bounds import Power, believed, powers_of
from lockstep_workers.learning.rounds import Progress, Round, round_report
from tests.support.rounds import a_report, a_round, arrived, asked
from tests.wire.jobs import settings

RESULT = {"accuracy": 0.5, "loss": 1.0}
TABLE = ((1.0, 2.0), (2.0, 6.0))


def group(**more: Any) -> GroupSettings:
    """At 2 GHz it draws 8 W by κ = 1e-27."""
    told = {"name": "d", "replicas": 3, "min_ghz": 0.5, "max_ghz": 2.0, "cpu_at_max": 0.5}
    return GroupSettings(**{**told, "kappa": 1e-27, **more})


def job(of: GroupSettings) -> JobSettings:
    return settings(cloud_port=1, planner_port=1).model_copy(update={"groups": (of,)})


@pytest.mark.parametrize(
    ("more", "watts"),
    [
        ({}, 8.0),
        ({"idle_watts": 3.0}, 11.0),
        ({"transmit_watts": 2.0}, 10.0),
        ({"power_table": TABLE, "idle_watts": 1.0}, 7.0),
    ],
)
def test_a_device_may_have_drawn_what_its_model_says_all_the_time(
    more: dict[str, Any], watts: float
) -> None:
    most = Power(group(**more), cpu_watts=10.0).most(10.0, limited=True)
    assert most.model == pytest.approx(watts * 15.2)
    assert most.cpu == pytest.approx(10.0 * 0.5 * 15.2)
    assert most.measured == 0


def test_a_device_whose_limit_is_not_in_force_may_have_had_four_cores() -> None:
    power = Power(group(idle_watts=1.0), cpu_watts=10.0)
    assert power.most(1.0, limited=False).model == pytest.approx((8 * 8 + 1) * 1.7)
    assert power.most(1.0, limited=False).cpu == pytest.approx(40 * 1.7)


def told(**joules: float) -> ClientReport:
    return arrived("d-0", energy_joules=EnergyJoules(**joules))


def test_each_source_is_believed_for_itself() -> None:
    power = Power(group(), cpu_watts=10.0)
    found = believed(
        told(model=1e12, cpu=3.0), asked("d-0"), power=power, seconds=1.0, planned=True
    )
    assert found.update.energy_joules == EnergyJoules(cpu=3.0)
    assert found.left_out is not None
    assert found.left_out.said == EnergyJoules(model=1e12)
    assert found.left_out.most.model == pytest.approx(8 * 1.7)
    assert found.left_out.most.cpu is None


def report_of(
    joules: float, *, before: Progress, began_s: float, planned: bool = True
) -> tuple[float | None, bool]:
    """What the job's energy comes to, and whether the device was believed: it came after 1 s."""
    now = Round(a_round("d-0", planned=planned), began_s=began_s)
    update = told(model=joules).model_copy(update={"arrived_seconds": 1.0})
    now.accept(update)
    found = round_report(
        now, before, now_s=began_s + 1, result=RESULT, powers=powers_of(job(group()))
    )
    return found.energy_joules.model, found.clients[0].left_out is None


def test_the_time_counts_from_the_round_of_the_update_before() -> None:
    fresh = Progress()
    assert report_of(8 * 10.0, before=fresh, began_s=99.0) == (80.0, True)
    last = a_report("d-0", elapsed_seconds=99.0, seconds=9.0, energy_joules=EnergyJoules(model=1.0))
    known = fresh.after(last, a_round())
    assert known.told_since == {"d-0": 90.0}
    assert report_of(8 * 15.0, before=known, began_s=99.0) == (121.0, True)
    assert report_of(8 * 16.0, before=known, began_s=99.0) == (1.0, False)
    assert Progress.model_validate_json(known.to_json()).told_since == {"d-0": 90.0}


def test_a_plan_that_is_used_again_knows_of_no_limits() -> None:
    assert report_of(60.0, before=Progress(), began_s=0.0) == (None, False)
    assert report_of(60.0, before=Progress(), began_s=0.0, planned=False) == (60.0, True)


SPAN = st.floats(0.0, 100.0)


@given(
    rounds=st.lists(
        st.tuples(SPAN, SPAN, SPAN, st.floats(0.25, 1.0), st.booleans()), min_size=1, max_size=6
    ),
    table=st.booleans(),
)
def test_a_device_that_is_honest_is_always_believed(
    rounds: list[tuple[float, float, float, float, bool]], table: bool
) -> None:
    """Whatever it waits, and however often its update is not taken."""
    of = group(power_table=TABLE if table else (), idle_watts=0.7, transmit_watts=0.3)
    account, power, now_s, since_s = Account(job(of), of), powers_of(job(of))["d-0"], 0.0, 0.0
    for waits_s, trains_s, uploads_s, share, taken in rounds:
        began_s, now_s = now_s, now_s + waits_s
        cores = share * of.cpu_at_max
        used = Spent(trains_s, trains_s * cores, 0.0, cores, share * of.max_ghz)
        account.trained(
            used, began_s=now_s, ended_s=now_s + trains_s, download_s=waits_s, waited_s=0.0
        )
        now_s += trains_s + uploads_s
        report = arrived("d-0", energy_joules=account.untold)
        found = believed(report, asked("d-0"), power=power, seconds=now_s - since_s, planned=True)
        assert found.left_out is None
        account.uploaded(uploads_s, taken=taken)
        since_s = began_s if taken else since_s
