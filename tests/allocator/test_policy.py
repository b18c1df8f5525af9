"""The policy: untrained it is the equaliser, the order of devices is nothing to it, its file."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save

from lockstep_allocator import policy as policies
from lockstep_allocator.baselines import BASELINES, equalize_10s
from lockstep_allocator.devices import Devices
from lockstep_allocator.forecast import COMPONENTS, N_FEATURES, Forecaster, look_ahead
from lockstep_allocator.header import read
from lockstep_allocator.networks import (
    forecast_network,
    forecast_shapes,
    set_network,
    set_shapes,
)
from lockstep_allocator.observation import Observation, see
from lockstep_allocator.policy import (
    FEATURES,
    OUTPUTS,
    SHIPPED,
    InvalidPolicy,
    Policy,
    asked_compute_s,
    clipped_position,
    read_policy,
    situation,
)
from lockstep_allocator.training.nets import ForecastNetwork, SetNetwork, exported, imported
from lockstep_allocator.training.ppo import mean_action
from lockstep_allocator.training.window import Frame
from tests.allocator.fleets import fleet, untrained

START = np.zeros((3, 1))


def observation(envs: int = 3, devices: int = 6, **kwargs: float) -> Observation:
    return fleet(envs, devices, **kwargs).observe(np.zeros((envs, 1)))  # type: ignore[arg-type]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999), devices=st.integers(1, 30), weight=st.floats(0.1, 50))
def test_untrained_it_is_the_equaliser(seed: int, devices: int, weight: float) -> None:
    seen = fleet(2, devices, weight=weight, seed=seed).observe(np.zeros((2, 1)))
    assert untrained()(seen) == pytest.approx(equalize_10s(seen), rel=1e-6)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 999), order=st.permutations(range(6)))
def test_the_order_of_devices_changes_nothing(seed: int, order: list[int]) -> None:
    policy = untrained(seed, output_scale=0.5)
    seen = observation(2, 6, seed=seed)
    devices = Devices(
        **{
            name: value if name == "weight" else value[:, order]
            for name in Devices.__slots__
            for value in [getattr(seen.devices, name)]
        }
    )
    shuffled = Observation(
        devices=devices,
        slots_mbps=seen.slots_mbps[:, order],
        last_mbps=seen.last_mbps[:, order],
        mean_mbps=seen.mean_mbps[:, order],
    )
    assert policy(shuffled) == pytest.approx(policy(seen)[:, order], rel=1e-4)


def test_frequencies_stay_in_range_though_more_is_asked() -> None:
    policy = untrained(1, output_scale=5.0)
    seen = observation(8, 10)
    at = situation(policy.forecaster, seen)
    outputs = set_network(policy.weights, at.features).astype(float)
    asked_ghz = seen.devices.work / np.maximum(asked_compute_s(at, outputs), 1e-9)
    given_ghz = policy(seen)
    assert (asked_ghz > seen.devices.max_ghz * 1.01).any()
    assert (given_ghz <= seen.devices.max_ghz * (1 + 1e-12)).all()
    assert (given_ghz >= seen.devices.min_ghz * (1 - 1e-12)).all()


def test_torch_and_numpy_are_one_network() -> None:
    torch.manual_seed(3)
    x = torch.randn(4, 9, len(FEATURES))
    network = SetNetwork(len(FEATURES), 3)
    torch.nn.init.normal_(next(network.leave[-1].parameters()))
    told = set_network(exported(network), x.numpy())
    assert told == pytest.approx(network(x).detach().numpy(), abs=1e-5)
    forecaster = ForecastNetwork(22).eval()
    y = torch.randn(5, 22)
    assert forecast_network(exported(forecaster), y.numpy()) == pytest.approx(
        forecaster.layers(y).detach().numpy(), abs=1e-5
    )
    again = SetNetwork(len(FEATURES), 3)
    imported(again, exported(network))
    assert torch.equal(again(x), network(x))


def test_torch_and_numpy_ask_for_the_same_position() -> None:
    policy = untrained(2, output_scale=1.0)
    at = situation(policy.forecaster, observation())
    outputs = set_network(policy.weights, at.features)
    where = clipped_position(at.devices, asked_compute_s(at, outputs.astype(float)))
    mean = mean_action(torch.from_numpy(outputs), Frame.of(at))
    assert torch.sigmoid(mean).numpy() == pytest.approx(where, abs=1e-4)


def test_chances_of_being_last_add_up_and_slow_devices_have_more() -> None:
    policy = read_policy(SHIPPED)
    seen = see(observation(4, 8))
    outlook = look_ahead(policy.forecaster, seen)
    chances = outlook.last_probability(seen.even.compute_s)
    assert chances.sum(-1) == pytest.approx(np.ones(4))
    slower = seen.even.compute_s.copy()
    slower[:, 0] += 2.0
    assert (outlook.last_probability(slower)[:, 0] > chances[:, 0]).all()


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_stay_in_range(name: str) -> None:
    seen = observation(4, 12)
    ghz = BASELINES[name](seen)
    devices = seen.devices
    assert ((ghz >= devices.min_ghz - 1e-12) & (ghz <= devices.max_ghz + 1e-12)).all()


# -- the file --------------------------------------------------------------------------------


def test_a_file_gives_the_same_policy_back(tmp_path: Path) -> None:
    policy = untrained(4, output_scale=0.3)
    file = tmp_path / "policy.safetensors"
    file.write_bytes(policy.to_bytes())
    again = read_policy(file)
    seen = observation()
    assert (again(seen) == policy(seen)).all()
    assert again.training == policy.training


def test_the_shipped_policy_can_be_read_and_says_how_it_came_about() -> None:
    shipped = read_policy(SHIPPED)
    assert SHIPPED.stat().st_size < 400_000
    assert shipped.training.updates > 100
    assert len(shipped.training.train_sha256) > 100
    assert not {*shipped.training.train_sha256} & {*shipped.training.validation_sha256}
    assert shipped.training.metrics["gap closed"] > 50


def rewritten(content: bytes, **metadata: str) -> bytes:
    size = int.from_bytes(content[:8], "little")
    head = json.loads(content[8 : 8 + size])
    head["__metadata__"] |= metadata
    text = json.dumps(head).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


GOOD = untrained().to_bytes()


def trained(**told: Any) -> bytes:
    """A policy that says so of its training."""
    size = int.from_bytes(GOOD[:8], "little")
    before = json.loads(json.loads(GOOD[8 : 8 + size])["__metadata__"]["training"])
    return rewritten(GOOD, training=json.dumps({**before, **told}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no policy file"),
        (b"hello world, this is text", "is no policy file"),
        (b"\xff" * 64, "is no policy file"),
        ((2).to_bytes(8, "little") + b"[]", "is no policy file"),
        (rewritten(GOOD, format="other"), "is no policy file"),
        (rewritten(GOOD, version="2"), "has version 2, this is for 1"),
        (rewritten(GOOD, features="[]"), "was trained for other features"),
        (rewritten(GOOD, training="{}"), "is damaged"),
        (rewritten(GOOD, training="no json"), "is damaged"),
        (rewritten(GOOD, training="[" * 100_000), "is damaged"),
        (trained(minutes=[1]), r"is damaged \(training: minutes: "),
        (trained(minutes=float("nan")), "is damaged .*minutes"),
        (trained(updates=-1), "is damaged .*updates"),
        (trained(seed=10**400), "is damaged .*seed"),
        (trained(train_sha256=["\x1b[2J"]), "is damaged .*train_sha256"),
        (trained(families=[["of a list"]]), "is damaged .*families"),
        (trained(families="letters"), "is damaged .*families"),
        (trained(stopped="x" * 300), "is damaged .*stopped"),
        (trained(metrics={"gap closed": "much"}), "is damaged .*metrics"),
        (trained(metrics={str(i): 0.0 for i in range(1001)}), "is damaged .*1000 entries"),
        (trained(settings=json.loads('{"a":' * 40 + "1" + "}" * 40)), "is damaged .*settings"),
        (trained(unknown=1), "is damaged .*unknown"),
        (GOOD[:-100], "is damaged"),
        (replace(untrained(), weights={}).to_bytes(), "is damaged"),
    ],
)
def test_a_wrong_file_is_a_clear_error(content: bytes, message: str) -> None:
    with pytest.raises(InvalidPolicy, match=message):
        Policy.from_bytes(content, source="x")


def test_weights_that_are_not_finite_are_refused() -> None:
    policy = untrained()
    broken = dict(policy.weights)
    broken["enter.0.bias"] = np.full_like(broken["enter.0.bias"], np.nan)
    with pytest.raises(InvalidPolicy, match="not finite"):
        Policy.from_bytes(replace(policy, weights=broken).to_bytes(), source="x")


def reshaped(*, without: str = "", **weights: Any) -> bytes:
    """The policy with some other weights; a double underscore stands for a dot."""
    tensors, told = read(GOOD)
    tensors |= {name.replace("__", "."): value for name, value in weights.items()}
    return save({name: value for name, value in tensors.items() if name != without}, told)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            reshaped(policy__enter__2__bias=np.zeros((500, 1, 1), np.float32)),
            r"policy.enter.2.bias is float32 \(500, 1, 1\), not float32 \(64,\)",
        ),
        (reshaped(policy__enter__0__bias=np.zeros((64, 1), np.float32)), r"enter.0.* \(64, 1\), n"),
        (reshaped(policy__enter__0__bias=np.zeros(0, np.float32)), r"not float32 \(1, 38\)"),
        (reshaped(policy__norm__1__bias=np.zeros(64, np.int8)), "norm.1.bias is int8"),
        (reshaped(forecast__layers__4__bias=np.zeros(3, np.float32)), r"not float32 \(15,\)"),
        (reshaped(policy__block__2__0__bias=np.zeros(64, np.float32)), "block.2.0.bias is there"),
        (reshaped(more=np.zeros(0, np.float32)), "more is there"),
        (reshaped(without="policy.leave.2.bias"), "policy.leave.2.bias is missing"),
        (reshaped(without="forecast.layers.0.bias"), "forecast.layers.0.bias is missing"),
    ],
)
def test_weights_of_other_shapes_are_refused_before_anything_is_reckoned(
    content: bytes, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policies, "set_network", None)
    with pytest.raises(InvalidPolicy, match=message):
        Policy.from_bytes(content, source="x")


@pytest.mark.parametrize("width", [1, 64, 100])
def test_the_weights_that_are_expected_are_those_of_the_networks(width: int) -> None:
    mine = exported(SetNetwork(len(FEATURES), OUTPUTS, width=width))
    expected = set_shapes(features=len(FEATURES), outputs=OUTPUTS, width=width)
    assert {name: value.shape for name, value in mine.items()} == expected
    ahead = exported(ForecastNetwork(N_FEATURES, width=width).eval())
    expected = forecast_shapes(features=N_FEATURES, outputs=3 * COMPONENTS, width=width)
    assert {name: value.shape for name, value in ahead.items()} == expected
    policy = replace(untrained(), weights=mine, forecaster=Forecaster(ahead))
    again = Policy.from_bytes(policy.to_bytes(), source="x")
    assert (again(observation()) == policy(observation())).all()


def test_a_missing_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InvalidPolicy, match="cannot be read: No such file"):
        read_policy(tmp_path / "nothing")
