"""Recorded rounds: replayed as they were, kept within bounds; and a policy learns from them."""

import json
import math
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save

from lockstep_allocator import records
from lockstep_allocator.baselines import maximum
from lockstep_allocator.devices import energy_curve, stack_curves
from lockstep_allocator.experience import Experience, costs
from lockstep_allocator.fleet import Method
from lockstep_allocator.header import read
from lockstep_allocator.policy import SHIPPED, Policy, read_policy
from lockstep_allocator.records import MAX_BYTES, MAX_LINES, MAX_ROUNDS, InvalidExperience, Record
from lockstep_allocator.training.online import OnlineSettings, improve
from lockstep_api.energy import EnergyModel, PowerPoint
from lockstep_api.spec.pods import Energy
from tests.allocator.fleets import fleet, never_trained, recorded

ROUNDS = 40
UNHURRIED = OnlineSettings(seconds=math.inf)
"""All updates, however busy the machine is."""


@cache
def played() -> Experience:
    """Rounds of six devices with the shipped policy."""
    return recorded(fleet(1, 6, seed=3), read_policy(SHIPPED), ROUNDS)[0]


@cache
def naive() -> Policy:
    """The shipped policy with a network that was never trained: the equaliser."""
    return never_trained(read_policy(SHIPPED))


def cost(experience: Experience, method: Method) -> float:
    """Mean time + λ·energy of the recorded rounds, had `method` chosen."""
    return float(costs(experience.replays(), method).mean())


def test_replayed_as_they_were_the_rounds_cost_what_they_cost() -> None:
    """But for what 1-s means leave out, and the rounds whose links nobody looked at afterwards."""
    policy = read_policy(SHIPPED)
    experience, spent = recorded(fleet(1, 6, seed=3), policy, ROUNDS)
    replayed = np.concatenate([replay.cost(policy) for replay in experience.replays()])
    assert replayed == pytest.approx(spent, rel=0.1)
    assert cost(experience, policy) == pytest.approx(spent.mean(), rel=0.01)


def test_a_replay_has_the_action_of_the_method_that_is_asked() -> None:
    def slowest(seen: object) -> np.ndarray:
        return seen.devices.min_ghz  # type: ignore[attr-defined, no-any-return]

    def fastest(seen: object) -> np.ndarray:
        return seen.devices.max_ghz  # type: ignore[attr-defined, no-any-return]

    (replay,) = played().replays()
    slow, fast = replay.cost(slowest), replay.cost(fastest)
    assert (slow != fast).all()
    joules = [record.joules.sum() for record in played().records]
    assert len(joules) == len(slow) == ROUNDS


def test_rounds_of_unequal_fleets_are_replayed_apart() -> None:
    experience = played()
    short = experience.records[7]
    part = short.observation
    devices = {
        name: value[:, :4] if name != "weight" else value
        for name in part.devices.__dataclass_fields__
        if (value := getattr(part.devices, name)) is not None
    }
    seen = replace(
        part, devices=replace(part.devices, **devices), slots_mbps=part.slots_mbps[:, :4],
        last_mbps=part.last_mbps[:, :4], mean_mbps=part.mean_mbps[:, :4],
    )  # fmt: skip
    fewer = Record(
        round=8,
        at_s=short.at_s,
        clients=short.clients[:4],
        observation=seen,
        ghz=short.ghz[:4],
        seconds=short.seconds,
        joules=short.joules[:4],
        upload_s=short.upload_s[:4],
    )
    mixed = experience.with_round(fewer)
    assert len(mixed) == ROUNDS
    assert [replay.fleet.devices.shape for replay in mixed.replays()] == [(39, 6), (1, 4)]
    assert np.isfinite(cost(mixed, read_policy(SHIPPED)))


def test_rounds_that_are_played_in_parts_cost_the_same() -> None:
    policy, parts = read_policy(SHIPPED), played().replays(most=100)
    assert [part.fleet.devices.shape for part in parts] == [(16, 6), (16, 6), (8, 6)]
    assert [part.fleet.devices.shape for part in played().replays(most=1)] == [(1, 6)] * ROUNDS
    assert costs(parts, policy) == pytest.approx(costs(played().replays(), policy), rel=1e-6)


def test_a_file_has_what_was_recorded() -> None:
    again = Experience.from_bytes(played().to_bytes())
    assert [r.round for r in again.records] == [r.round for r in played().records]
    assert cost(again, naive()) == pytest.approx(cost(played(), naive()), rel=1e-4)
    first, same = played().records[0], again.records[0]
    assert (first.clients, first.at_s, first.seconds) == (same.clients, same.at_s, same.seconds)
    for name in ("ghz", "joules", "upload_s"):
        assert getattr(first, name) == pytest.approx(getattr(same, name), rel=1e-6)


def test_no_rounds_are_a_file_too() -> None:
    empty = Experience.from_bytes(Experience().to_bytes())
    assert len(empty) == 0
    assert empty.replays() == []


def test_only_the_newest_rounds_are_kept() -> None:
    experience = played()
    for number in range(ROUNDS + 1, MAX_ROUNDS + 11):
        experience = experience.with_round(replace(experience.records[-1], round=number))
    assert (len(experience), experience.records[0].round) == (MAX_ROUNDS, 11)


def test_a_file_fits_into_a_kubernetes_object() -> None:
    experience, _ = recorded(fleet(1, 600, seed=1), lambda seen: seen.devices.max_ghz, 20)
    content = experience.to_bytes()
    assert MAX_BYTES / 2 < len(content) <= MAX_BYTES
    kept = Experience.from_bytes(content)
    assert 10 <= len(kept) < 20
    assert kept.records[-1].round == 20  # the oldest are dropped


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 8, b"garbage" * 20, played().to_bytes()[:-9], SHIPPED.read_bytes()]
)
def test_what_is_no_experience_is_refused(content: bytes) -> None:
    with pytest.raises(InvalidExperience, match="the recorded rounds cannot be read"):
        Experience.from_bytes(content)


def test_damaged_values_are_refused() -> None:
    record = played().records[0]
    broken = Experience((replace(record, ghz=record.ghz * np.nan),))
    with pytest.raises(InvalidExperience, match="not finite"):
        Experience.from_bytes(broken.to_bytes())
    still = replace(record.observation.devices, work=record.observation.devices.work * 0)
    broken = Experience((replace(record, observation=replace(record.observation, devices=still)),))
    with pytest.raises(InvalidExperience, match="without work"):
        Experience.from_bytes(broken.to_bytes())


def changed(**tables: Any) -> bytes:
    """The recorded rounds with some other tables."""
    tensors, told = read(played().to_bytes())
    return save({**tensors, **tables}, told)


def named(clients: Any) -> bytes:
    """The recorded rounds with other names of clients."""
    tensors, told = read(played().to_bytes())
    known = json.loads(told[records.FORMAT])
    return save(tensors, {records.FORMAT: json.dumps({**known, "clients": clients})})


DEVICES = 6 * ROUNDS
LINES = MAX_LINES + 1


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(curves=np.zeros((1, 3 + 2 * LINES))), "curve has 66 lines, 65 at most"),
        (changed(curves=np.zeros((1, 4))), r"curves is float64 \(1, 4\), not float64 \(1, 3\)"),
        (changed(curves=np.zeros((1, 3), np.float16)), "curves is float16"),
        (changed(curves=np.zeros((DEVICES + 1, 3))), "241 energy curves for 240 devices"),
        (changed(curves=np.zeros(3)), "curves is float64"),
        (changed(curves=np.full((1, 3), np.nan)), "not finite"),
        (changed(rounds=np.ones((MAX_ROUNDS + 1, 5))), "101 rounds, 100 at most"),
        (changed(rounds=np.array([[1, 1, 1, 1, 2.0**62]] * 4)), "do not fit together"),
        (changed(slots=np.ones((DEVICES, 17), np.float32)), "slots is float32"),
        (changed(work=np.ones((DEVICES, 1), np.float32)), "work is float32"),
        (changed(joules=np.ones(DEVICES)), "joules is float64"),
        (changed(client=np.array(0, np.int32)), "the recorded rounds cannot be read"),
        (named([[0] * 1000]), "its clients are no list of names"),
        (named("abcdef"), "its clients are no list of names"),
        (changed(more=np.zeros(MAX_BYTES)), "bytes, 900000 at most"),
    ],
)
def test_tables_that_no_job_writes_are_refused_before_anything_is_made_of_them(
    content: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "_record", None)
    with pytest.raises(InvalidExperience, match=message):
        Experience.from_bytes(content)


def test_the_longest_curves_that_a_spec_can_have_are_read_again() -> None:
    table, _ = Energy.model_json_schema()["properties"]["table"]["anyOf"]
    most = table["maxItems"]
    points = [PowerPoint(1 + i / 100, 1 + (1 + i) ** 4 / 1000) for i in range(most)]
    model = EnergyModel(kappa=0.0, table=tuple(points), idle_watts=0.5, transmit_watts=0.0)
    curve = energy_curve(model, min_ghz=0.5, max_ghz=1.63)
    assert len(curve.alpha) == MAX_LINES - 1
    record = played().records[0]
    alpha, beta = (np.tile(part, (1, 6, 1)) for part in stack_curves([curve]))
    devices = replace(record.observation.devices, alpha=alpha, beta=beta)
    record = replace(record, observation=replace(record.observation, devices=devices))
    again = Experience.from_bytes(Experience((record,)).to_bytes())
    assert again.records[0].encoded.curves == record.encoded.curves


def test_rounds_that_are_read_share_their_curves() -> None:
    read_again = Experience.from_bytes(played().to_bytes()).records
    assert len({id(curve) for one in read_again for curve in one.encoded.curves}) == len(
        {curve for one in read_again for curve in one.encoded.curves}
    )


@pytest.mark.slow
def test_a_job_learns_from_its_rounds() -> None:
    """The equaliser becomes better on rounds of the same links that it never saw."""
    links, policies = fleet(1, 6, seed=3), [naive()]

    def learnt(experience: Experience) -> Policy:
        policies.append(improve(policies[-1], experience, settings=UNHURRIED).policy)
        return policies[-1]

    _, without = recorded(links, naive(), 120)
    _, spent = recorded(links, naive(), 120, after=learnt)
    assert spent[60:].mean() < without[60:].mean()


def test_learning_is_repeatable_and_keeps_the_policy_where_nothing_is_sure() -> None:
    few = Experience(played().records[:6])
    settings = replace(UNHURRIED, updates=4)
    found = improve(naive(), few, settings=settings)
    again = improve(naive(), few, settings=settings)
    for name, value in found.policy.weights.items():
        assert np.array_equal(value, again.policy.weights[name])
    assert found.saved_s == again.saved_s
    assert found.policy.training.stopped == "on the job"


def test_without_rounds_there_is_nothing_to_learn() -> None:
    with pytest.raises(ValueError, match="no recorded rounds"):
        improve(naive(), Experience(), settings=OnlineSettings())


def test_a_round_is_encoded_once_however_often_it_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded: list[int] = []
    encode = records._encoded

    def counted(record: Record) -> object:
        encoded.append(record.round)
        return encode(record)

    monkeypatch.setattr(records, "_encoded", counted)
    experience = played()
    for number in range(ROUNDS + 1, ROUNDS + 4):
        experience = experience.with_round(replace(experience.records[-1], round=number))
        assert len(Experience.from_bytes(experience.to_bytes())) == len(experience)
    written = [number for number in encoded if number > ROUNDS]
    read = [number for added in range(1, 4) for number in range(ROUNDS + 1, ROUNDS + 1 + added)]
    assert sorted(written) == sorted([ROUNDS + 1, ROUNDS + 2, ROUNDS + 3, *read])


def test_curves_with_more_and_with_fewer_lines_are_kept_together() -> None:
    first, second = played().records[:2]
    devices = second.observation.devices
    alpha, beta = np.zeros((1, 6, 2)), np.zeros((1, 6, 2))
    alpha[0, :, 0], alpha[0, :, 1], beta[0, :, 1] = 0.5, 0.1, 0.3
    tabled = replace(devices, kappa=devices.kappa * 0, alpha=alpha, beta=beta)
    second = replace(second, observation=replace(second.observation, devices=tabled))
    mixed = Experience((first, second))
    assert {one.encoded.lines for one in mixed.records} == {0, 2}
    again = Experience.from_bytes(mixed.to_bytes())
    for method in (maximum, naive()):
        before, after = costs(mixed.replays(), method), costs(again.replays(), method)
        assert after == pytest.approx(before, rel=1e-4)


def test_a_round_that_no_object_can_hold_is_not_kept() -> None:
    experience, _ = recorded(fleet(1, 8_000, seed=1), maximum, 1)
    assert len(experience) == 1
    assert len(experience.fitting()) == 0
    assert len(Experience.from_bytes(experience.to_bytes())) == 0
