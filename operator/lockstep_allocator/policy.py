"""The policy: the equaliser's compute times, corrected by a network; and the file that holds it.

c = T·e^a - û·e^d + g·(c_plan - c_even), clipped to the device's range, with (a, d, g) from the
network, T and c_even from the equaliser, and c_plan from the forecaster's plan. The untrained
network gives 0, so the untrained policy is the equaliser. f = W/c may ask for a little more than
the device's maximum and is clipped to it (f2 = min(f3, fmax), CN113312169B).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BeforeValidator, Field, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import save

from lockstep_allocator.devices import Array, Devices
from lockstep_allocator.forecast import COMPONENTS, N_FEATURES, Forecaster, look_ahead
from lockstep_allocator.header import read
from lockstep_allocator.networks import Shapes, Weights, forecast_shapes, set_network, set_shapes
from lockstep_allocator.observation import (
    HISTORY_FEATURES,
    ROUND_FEATURES,
    Observation,
    Seen,
    see,
)
from lockstep_api.base import ApiModel, problems_of
from lockstep_api.nesting import not_too_deep
from lockstep_api.wire_types import Finite, few_entries

FORMAT = "lockstep-policy"
VERSION = 1
OUTPUTS = 3
FORECAST_FEATURES = ("plan shift / T", "position of the plan", "log P(last)", "log P(last) planned")
FEATURES = (*HISTORY_FEATURES, *ROUND_FEATURES, *FORECAST_FEATURES)
PLAN_TURNS = 8
REACH = 1.5
"""Greatest size of a network output."""
MARGIN = 0.1
"""Part of the scale of positions that lies beyond either end of a device's range, before the clip:
a device of 1 to 2 GHz may be asked for 0.92 to 2.18 GHz."""
POSITIONS = (0.05, 0.95)
"""Positions are kept inside these: far out, exploration would not reach the range any more."""
MAX_BYTES = 16 * 2**20
MOST_METRICS = 1000
_MANY = Field(max_length=100_000)
"""Files or families that a policy was trained on."""


class InvalidPolicy(ValueError):
    """A file that is no policy, or one of another version; says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What the network sees and what its outputs act on; arrays (E, N, …)."""

    seen: Seen
    features: NDArray[np.float32]
    """(E, N, F)."""
    finish_s: Array
    """(E, 1) the equaliser's T."""
    shift_s: Array
    """(E, N) c_plan - c_even."""

    @property
    def devices(self) -> Devices:
        """The devices."""
        return self.seen.devices


def situation(forecaster: Forecaster, observation: Observation) -> Situation:
    """Looks ahead and makes the features."""
    seen = see(observation)
    outlook = look_ahead(forecaster, seen)
    even, devices = seen.even, seen.devices
    plan_s = outlook.plan(PLAN_TURNS)
    shift_s = plan_s - even.compute_s
    span_s = np.maximum(devices.longest - devices.shortest, 1e-9)
    chances = [outlook.last_probability(at_s) for at_s in (even.compute_s, plan_s)]
    ahead = np.stack(
        [
            4 * shift_s / even.finish_s,
            (plan_s - devices.shortest) / span_s,
            *(np.log(chance + 1e-4) + 4 for chance in chances),
        ],
        -1,
    )
    features = np.concatenate([seen.features(), ahead.clip(-6, 6)], -1).astype(np.float32)
    return Situation(seen=seen, features=features, finish_s=even.finish_s, shift_s=shift_s)


def borders(devices: Devices) -> tuple[Array, Array]:
    """(E, N) least and greatest compute time that may be asked for, before the clip."""
    ratio = np.maximum(devices.longest / devices.shortest, 1.001)
    beyond = ratio ** (MARGIN / (1 - 2 * MARGIN))
    return devices.shortest / beyond, devices.longest * beyond


def asked_compute_s(at: Situation, outputs: Array) -> Array:
    """(E, N) compute times for network outputs (E, N, 3), before any clip; may be negative."""
    a, d, g = np.moveaxis(REACH * np.tanh(outputs / REACH), -1, 0)
    seen = at.seen
    return at.finish_s * np.exp(a) - seen.upload_s * np.exp(d) - _rest(at) + g * at.shift_s


def _rest(at: Situation) -> Array:
    """What the clip takes from the equaliser's compute times: output 0 stays the equaliser."""
    return at.finish_s - at.seen.upload_s - at.seen.even.compute_s


def position(devices: Devices, compute_s: Array) -> Array:
    """(E, N) where a compute time lies between the borders, on a logarithmic scale, in (0, 1)."""
    least, greatest = borders(devices)
    return np.log(np.maximum(compute_s, 1e-9) / least) / np.log(greatest / least)


def clipped_position(devices: Devices, compute_s: Array) -> Array:
    """The same, kept inside."""
    return position(devices, compute_s).clip(*POSITIONS)


def compute_at(devices: Devices, where: Array) -> Array:
    """(E, N) or (E, N, K) compute times at positions, clipped to what the devices can do."""
    least, greatest = borders(devices)
    shortest, longest = devices.shortest, devices.longest
    if where.ndim == 3:
        least, greatest = least[..., None], greatest[..., None]
        shortest, longest = shortest[..., None], longest[..., None]
    return np.clip(least * (greatest / least) ** where, shortest, longest)


_Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
_Name = Annotated[str, Field(max_length=255)]
_Hashes = Annotated[tuple[Annotated[str, Field(pattern="^[0-9a-f]{64}$")], ...], _MANY]


class Training(ApiModel):
    """How a policy came about; its file has these names as they are here."""

    seed: _Whole
    split: _Whole
    """Seed of the split by trace; -1: no traces were held out."""
    minutes: Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
    updates: Annotated[int, Field(ge=0, lt=2**63)]
    stopped: _Name
    """Why training ended."""
    train_sha256: _Hashes
    """Hashes of the files trained on."""
    validation_sha256: _Hashes
    """Hashes of the files that chose the checkpoint."""
    families: Annotated[tuple[_Name, ...], _MANY]
    metrics: Annotated[dict[_Name, Finite], BeforeValidator(few_entries(MOST_METRICS))]
    settings: Annotated[dict[_Name, Any], AfterValidator(not_too_deep)]

    @property
    def known_sha256(self) -> frozenset[str]:
        """Hashes of all files that had a part in it: it must not be judged on them."""
        return frozenset({*self.train_sha256, *self.validation_sha256})


@dataclass(frozen=True, slots=True)
class Policy:
    """A trained policy."""

    forecaster: Forecaster
    weights: Weights
    training: Training

    def __call__(self, observation: Observation) -> Array:
        """(E, N) frequencies in GHz."""
        at = situation(self.forecaster, observation)
        compute_s = asked_compute_s(at, set_network(self.weights, at.features).astype(float))
        where = clipped_position(at.devices, compute_s)
        return at.devices.work / compute_at(at.devices, where)

    # -- file ----------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """A safetensors file that says of itself what it is."""
        tensors = {f"policy.{name}": value for name, value in self.weights.items()}
        tensors |= {f"forecast.{name}": value for name, value in self.forecaster.weights.items()}
        told = {
            "format": FORMAT,
            "version": str(VERSION),
            "features": json.dumps(FEATURES),
            "training": json.dumps(self.training.model_dump(mode="json", by_alias=False)),
        }
        return save({name: np.ascontiguousarray(value) for name, value in tensors.items()}, told)

    @classmethod
    def from_bytes(cls, content: bytes, *, source: str) -> Self:
        """Reads a policy file.

        Raises:
            InvalidPolicy: not a policy, damaged, or of another version.
        """
        tensors, told = _read(content, source)
        try:
            _check(tensors)
            policy = cls(
                Forecaster(_part(tensors, "forecast.")), _part(tensors, "policy."),
                Training.model_validate_json(told["training"]),
            )  # fmt: skip
        except ValidationError as error:
            raise InvalidPolicy(_damaged(source, f"training: {problems_of(error)}")) from error
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise InvalidPolicy(_damaged(source, error)) from error
        return policy


def _check(tensors: Mapping[str, NDArray[Any]]) -> None:
    """Whether they are the weights of both networks, by name, type and shape.

    Nothing is reckoned with them before: NumPy takes most shapes, and makes large arrays of small.
    """
    expected = _expected(tensors)
    if wrong := sorted(tensors.keys() ^ expected.keys()):
        here = "is there" if wrong[0] in tensors else "is missing"
        raise ValueError(f"{wrong[0][:100]} {here}: these are no weights of the networks")
    for name, shape in expected.items():
        value = tensors[name]
        if value.dtype != np.float32 or value.shape != shape:
            raise ValueError(f"{name} is {value.dtype} {value.shape}, not float32 {shape}")
        if not np.isfinite(value).all():
            raise ValueError("a weight is not finite")


def _expected(tensors: Mapping[str, NDArray[Any]]) -> Shapes:
    """What weights there are, by the widths that the first layers say."""
    first = (tensors.get(name) for name in ("policy.enter.0.bias", "forecast.layers.0.bias"))
    own, ahead = (1 if one is None else max(1, one.size) for one in first)
    mine = set_shapes(features=len(FEATURES), outputs=OUTPUTS, width=own)
    forecast = forecast_shapes(features=N_FEATURES, outputs=3 * COMPONENTS, width=ahead)
    return {
        **{f"policy.{name}": shape for name, shape in mine.items()},
        **{f"forecast.{name}": shape for name, shape in forecast.items()},
    }


def _read(content: bytes, source: str) -> tuple[Weights, dict[str, str]]:
    """The tensors, and the free text, which says that it is a policy of this version."""
    wrong = f"{source} is no policy file: make one with `lockstep-allocator train`"
    if len(content) > MAX_BYTES:
        raise InvalidPolicy(wrong)
    try:
        tensors, told = read(content)
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        # What calls itself a policy was one.
        raise InvalidPolicy(
            _damaged(source, error) if FORMAT.encode() in content else wrong
        ) from error
    if told.get("format") != FORMAT:
        raise InvalidPolicy(wrong)
    if told.get("version") != str(VERSION):
        version = told.get("version")
        raise InvalidPolicy(f"{source} has version {version}, this is for {VERSION}: train it anew")
    if told.get("features") != json.dumps(FEATURES):
        raise InvalidPolicy(f"{source} was trained for other features: train it anew")
    return tensors, told


def _damaged(source: str, error: Exception | str) -> str:
    return f"{source} is damaged ({error}): train or copy it anew"


def _part(tensors: Weights, prefix: str) -> dict[str, NDArray[np.float32]]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }


def read_policy(file: Path) -> Policy:
    """Reads a policy from a file.

    Raises:
        InvalidPolicy: see `Policy.from_bytes`; also when there is no such file.
    """
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InvalidPolicy(f"{file} cannot be read: {error.strerror}") from error
    return Policy.from_bytes(content, source=str(file))


SHIPPED = Path(__file__).with_name("shipped.safetensors")
"""The policy that comes with the package (docs/allocation.md says how it was trained)."""
