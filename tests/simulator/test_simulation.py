"""A simulated job: the learning of its pods, and times and joules by hand."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lockstep_allocator.bandwidth import Trace
from lockstep_allocator.devices import Array
from lockstep_allocator.observation import Observation
from lockstep_api.energy import modelled_joules
from lockstep_simulator.emulation import NO_OVERHEADS
from lockstep_simulator.observing import Telemetry
from lockstep_simulator.planning import LivePlanner
from lockstep_simulator.replay import Replay
from lockstep_simulator.simulated import SimulatedRound
from lockstep_simulator.simulation import settings_of, simulation
from lockstep_workers.errors import InvalidJob, JobFailed
from lockstep_workers.learning.strategies import build_strategy
from lockstep_workers.tensors import body_bytes
from tests.support.one_process import play
from tests.support.simulating import DATASET, WORK, group, rounds, setup, spec

N_VALUES = 784 * 8 + 8 + 8 * 10 + 10
MBIT = body_bytes(N_VALUES) * 8e-6
MBPS = {"mbps": 2.0}
STEPS = 5


def seconds(done: list[SimulatedRound]) -> list[float]:
    """How long each round took."""
    return [one.report.seconds for one in done]


def updates(done: SimulatedRound) -> dict[str, Any]:
    """The reports of a round by client."""
    return {one.update.client: one for one in done.report.clients}


def test_a_round_lasts_as_long_as_its_slowest_device() -> None:
    done = rounds(spec())
    assert [one.round for one in done] == [1, 2, 3]
    assert seconds(done) == pytest.approx([STEPS * WORK / 0.5] * 3)
    assert [one.time_s for one in done] == pytest.approx([0.2, 0.4, 0.6])
    arrived = {name: one.arrived_seconds for name, one in updates(done[0]).items()}
    fast, slow = STEPS * WORK, 2 * STEPS * WORK
    assert arrived == pytest.approx(
        {"fast-0": fast, "fast-1": fast, "slow-0": slow, "slow-1": slow}
    )
    assert done[0].steps == dict.fromkeys(arrived, STEPS)
    assert done[-1].bytes == 12 * body_bytes(N_VALUES)


def test_transfers_take_their_time_on_a_constant_link() -> None:
    link = {"mbps": 2.0, "latencyMs": 100}
    done = rounds(spec(group("d", uplink=link, downlink={"mbps": 4.0})))
    assert seconds(done) == pytest.approx([MBIT / 4 + STEPS * WORK + 0.1 + MBIT / 2] * 3)
    one = updates(done[0])["d-0"]
    assert one.update.download_seconds == pytest.approx(MBIT / 4)
    assert one.update.compute_seconds == pytest.approx(STEPS * WORK)
    assert one.upload_seconds == pytest.approx(0.1 + MBIT / 2)


def test_transfers_follow_the_trace_that_a_device_draws() -> None:
    text = "0,1\n1,3\n2,0.5\n3,2\n"
    job = spec(group("d", 3, uplink={"trace": "walk"}), training={"seed": 11})
    done = rounds(job, traces={"walk": {"a.csv": text, "notes.txt": "no trace"}})
    trace = Trace.of(np.arange(4.0), np.array([1, 3, 0.5, 2]), duration_s=4.0)
    for client in range(3):
        offset = np.random.default_rng(np.random.SeedSequence((11, client)))
        offset.integers(1)
        start_s = float(offset.random()) * 4.0 + STEPS * WORK
        took = trace.when(trace.bits_until(start_s) + MBIT * 1e6) - start_s
        assert updates(done[0])[f"d-{client}"].upload_seconds == pytest.approx(took)


def test_a_cpu_limit_is_rounded_as_on_pods() -> None:
    """1/3 GHz of 2 at 1 core are 166.67m: the pod gets 167m, and the device says what it has."""
    frequency = {"minGHz": 1 / 3, "maxGHz": 1 / 3}
    (done, *_) = rounds(spec(group("d", frequency=frequency, cpuAtMax="167m")))
    assert done.plan.participants[0].cpu_milli == 167
    assert seconds([done]) == pytest.approx([STEPS * WORK / 0.167])


def test_a_budget_of_seconds_caps_steps_until_work_is_known_and_then_plans_them() -> None:
    """Steps of 20 and 40 ms in 0.13 s: the device ends with the one that uses its budget up."""
    done = rounds(spec(training={"localSteps": {"budgetSeconds": 0.13}}))
    capped = {"fast-0": 7, "fast-1": 7, "slow-0": 4, "slow-1": 4}
    fitting = {"fast-0": 6, "fast-1": 6, "slow-0": 3, "slow-1": 3}
    assert [one.steps for one in done] == [capped, fitting, fitting]
    assert seconds(done) == pytest.approx([0.16, 0.12, 0.12])


def test_steps_drawn_per_device_are_done() -> None:
    steps = {"perDevice": {"distribution": "extreme", "min": 2, "max": 9}}
    done = rounds(spec(group("d", 4), training={"localSteps": steps}))
    assert all(sorted(one.steps.values()) == [2, 2, 2, 9] for one in done)
    assert seconds(done) == pytest.approx([9 * WORK] * 3)


def test_overheads_count_between_rounds_and_with_each_transfer() -> None:
    overheads = replace(NO_OVERHEADS, transfer_s=0.01, aside_s=0.03, cold_s=0.1, between_s=2.0)
    done = rounds(spec(group("d")), overheads=overheads)
    assert seconds(done) == pytest.approx([0.25, 0.15, 0.15])
    assert [one.time_s for one in done] == pytest.approx([0.25, 2.40, 4.55])
    assert updates(done[1])["d-0"].update.cpu_seconds == pytest.approx(STEPS * WORK + 0.03)


def test_energy_is_what_the_workers_account_says() -> None:
    """Idle power before the training, the radio for the upload before: as a device tells it."""
    energy = {"kappa": 2e-28, "idleWatts": 0.5, "transmitWatts": 1.5}
    job = spec(group("d", uplink=MBPS, energy=energy))
    done = rounds(job)
    model = settings_of(setup(job)).groups[0].energy_model()
    busy_s, upload_s = STEPS * WORK, MBIT / 2
    cycles = STEPS * WORK * 2e9
    first = modelled_joules(model, n_cycles=cycles, ghz=2.0, on_s=busy_s)
    later = modelled_joules(
        model, n_cycles=cycles, ghz=2.0, on_s=upload_s + busy_s, transmit_s=upload_s
    )
    assert [one.energy_j for one in done] == pytest.approx(
        [first, first + later, first + 2 * later]
    )
    cpu = updates(done[0])["d-0"].update.energy_joules.cpu
    assert cpu == pytest.approx(STEPS * WORK * 10)


def test_a_round_closes_at_its_deadline_with_the_quorum() -> None:
    participation = {"quorum": 2, "roundDeadlineSeconds": 0.15}
    done = rounds(spec(participation=participation, training={"rounds": 4}))
    assert seconds(done[:1]) == pytest.approx([0.15])
    assert set(done[0].steps) == {"fast-0", "fast-1"}
    assert done[0].report.lost == ["slow-0", "slow-1"]
    # The slow ones go on until 0.2 s, and are refused then: the next round has them from there.
    assert [one.report.lost for one in done[1:]] == [["slow-0", "slow-1"]] * 3


def test_the_energy_of_an_update_that_was_lost_is_told_with_the_next() -> None:
    job = spec(group("d", 2, energy={"kappa": 1e-28, "idleWatts": 1.0}))
    whole = rounds(job)
    first = whole[0].report
    kept = [one for one in first.clients if one.update.client != "d-1"]
    lossy = first.model_copy(update={"clients": kept, "lost": ["d-1"]})
    plans = Replay.of(job, [lossy, *(one.report for one in whole[1:])])
    done = rounds(job, planner=plans)
    assert done[0].report.lost == ["d-1"]
    assert done[0].energy_j == pytest.approx(whole[0].energy_j / 2)
    assert [one.energy_j for one in done[1:]] == pytest.approx([r.energy_j for r in whole[1:]])


@dataclass(slots=True)
class Losing(LivePlanner):
    """Plans as ever; device fast-0 gives nothing to round 2."""

    def gone(self, number: int) -> dict[str, str]:
        return {"fast-0": "its pod is gone"} if number == 2 else {}


def test_a_late_device_begins_the_next_round_when_it_is_done_with_the_last() -> None:
    """Round 1 closes at 0.15 s; the slow one trains until 0.2 s, is refused, and begins again."""
    groups = [group("fast", 2), group("slow", cpuAtMax="500m")]
    participation = {"quorum": 2, "roundDeadlineSeconds": 0.15}
    job = spec(*groups, participation=participation, training={"rounds": 2})
    planner = Losing(job, Telemetry({}, up_since_s=0.0))
    first, second = rounds(job, planner=planner)
    assert first.report.lost == ["slow-0"]
    assert seconds([first]) == pytest.approx([0.15])
    assert second.report.lost == ["fast-0"]
    assert updates(second)["slow-0"].arrived_seconds == pytest.approx(0.2 - 0.15 + 0.2)
    assert seconds([second]) == pytest.approx([0.25])


def test_a_policy_that_is_given_plans() -> None:
    def lowest(observation: Observation) -> Array:
        return observation.devices.min_ghz

    job = spec(group("d", 3, uplink=MBPS), allocation={"policy": "ppo"})
    first, second, _ = rounds(job, policy=lowest)
    assert {one.cpu_milli for one in first.plan.participants} == {1000}
    assert {one.frequency_ghz for one in second.plan.participants} == {0.2}
    assert seconds([second]) == pytest.approx([10 * STEPS * WORK + MBIT / 2])


def test_without_the_quorum_a_round_waits_beyond_its_deadline() -> None:
    participation = {"quorum": 3, "roundDeadlineSeconds": 0.15}
    done = rounds(spec(participation=participation, training={"rounds": 1}))
    assert seconds(done) == pytest.approx([0.2])


def test_failures_cost_nothing_without_a_deadline_and_time_with_one() -> None:
    many = spec(group("d", 20), training={"rounds": 5})
    done = rounds(many, failures=0.3)
    lost = [len(one.report.lost) for one in done]
    assert all(0 < count < 20 for count in lost)
    assert len({tuple(one.report.lost) for one in done}) == 5
    assert seconds(done) == pytest.approx([0.1] * 5)
    assert all(len(one.steps) == 20 - count for one, count in zip(done, lost, strict=True))
    participation = {"quorum": 1, "roundDeadlineSeconds": 0.7}
    waiting = spec(group("d", 20), training={"rounds": 5}, participation=participation)
    late = rounds(waiting, failures=0.3)
    assert [one.report.lost for one in late] == [one.report.lost for one in done]
    assert seconds(late) == pytest.approx([0.7] * 5)


def test_a_round_that_all_participants_left_is_planned_anew() -> None:
    """Round and report are the next ones; only the time of the round that came to nothing stays."""
    single = spec(group("d"), training={"rounds": 6})
    done = rounds(single, failures=0.5)
    assert [one.round for one in done] == [1, 2, 3, 4, 5, 6]
    assert seconds(done) == pytest.approx([0.1] * 6)
    assert done[-1].time_s > 0.65


def test_one_seed_gives_one_result_and_another_gives_another() -> None:
    job = spec(participation={"fraction": 0.5}, training={"rounds": 4})
    first, again = rounds(job, failures=0.2), rounds(job, failures=0.2)
    assert first == again
    other = rounds(spec(participation={"fraction": 0.5}, training={"rounds": 4, "seed": 4}))
    assert [one.accuracy for one in other] != [one.accuracy for one in first]


def test_participants_are_those_that_the_operator_samples() -> None:
    done = rounds(spec(group("d", 10), participation={"fraction": 0.3}, training={"rounds": 5}))
    assert all(len(one.clients) == 3 for one in done)
    assert len({one.clients for one in done}) > 1
    assert [set(one.steps) for one in done] == [set(one.clients) for one in done]


def test_a_target_ends_the_job() -> None:
    done = rounds(spec(training={"rounds": 50, "target": {"metric": "accuracy", "value": 0.5}}))
    assert 1 < len(done) < 50
    assert done[-1].accuracy >= 0.5
    assert all(one.accuracy < 0.5 for one in done[:-1])


def test_updates_that_are_not_finite_end_the_job_as_on_pods() -> None:
    with pytest.raises(JobFailed, match=r"all updates were refused: .*not finite.*tried 3 times"):
        rounds(spec(training={"learningRate": 1e12, "localSteps": {"fixed": 40}}))


@pytest.mark.parametrize("policy", ["static", "equalize", "ppo"])
def test_the_policies_level_devices_once_work_is_known(policy: str) -> None:
    groups = [group("fast", 2, uplink=MBPS), group("slow", 2, cpuAtMax="500m", uplink=MBPS)]
    done = rounds(spec(*groups, allocation={"policy": policy}, training={"rounds": 3}))
    milli = [{one.client: one.cpu_milli for one in r.plan.participants} for r in done]
    if policy != "static":
        assert milli[0] == {"fast-0": 1000, "fast-1": 1000, "slow-0": 500, "slow-1": 500}
    for limits in milli[1:]:
        assert limits["fast-0"] == pytest.approx(limits["slow-0"], rel=0.3)
        assert limits["fast-0"] < 700


def test_learning_is_that_of_a_job_in_one_process_bit_for_bit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another loop over the learning alone, which knows neither plans nor clocks."""
    job = spec(training={"deterministic": True, "momentum": 0.9, "rounds": 4})
    made = setup(job)
    settings = settings_of(made)
    monkeypatch.setattr("tests.support.one_process.load_dataset", lambda *_: DATASET)
    strategy = build_strategy(settings.strategy, momentum=settings.training.momentum)
    expected = play(settings, tmp_path, strategy=strategy, rounds=4, steps=STEPS)
    with simulation(made) as started:
        list(started.rounds())
        found = started.server.state.vectors["model"]
    assert found.tobytes() == expected.tobytes()


def test_what_cannot_be_simulated_is_refused_in_words() -> None:
    with pytest.raises(InvalidJob, match=r"allocation\.online.*--set allocation\.online=false"):
        rounds(spec(allocation={"policy": "ppo", "online": True}))
    with pytest.raises(InvalidJob, match=r"policyRef trained.*--policy"):
        rounds(spec(allocation={"policy": "ppo", "policyRef": "trained"}))
    with pytest.raises(InvalidJob, match="ConfigMap walk is not there"):
        rounds(spec(group("d", uplink={"trace": "walk"})))
