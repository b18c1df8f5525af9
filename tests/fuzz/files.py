"""Files that somebody else may have written, as fuzz targets: of volumes, ConfigMaps and images."""

import gzip
import math
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from lockstep_allocator.bandwidth import InvalidTrace, parse_trace
from lockstep_allocator.baselines import equalize_10s
from lockstep_allocator.devices import Devices
from lockstep_allocator.experience import Experience
from lockstep_allocator.forecast import Forecaster
from lockstep_allocator.observation import HISTORY_FEATURES, Observation
from lockstep_allocator.policy import FEATURES, OUTPUTS, InvalidPolicy, Policy, Training
from lockstep_allocator.records import InvalidExperience, Record
from lockstep_allocator.traces import TraceSet, parse
from lockstep_allocator.training.nets import ForecastNetwork, SetNetwork, exported
from lockstep_api.status import EnergyJoules
from lockstep_api.wire import RoundPlan, RoundReport
from lockstep_workers.cloud import checkpoint as checkpoints
from lockstep_workers.cloud.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from lockstep_workers.errors import CorruptCheckpoint, InvalidJob
from lockstep_workers.idx import IdxFile
from lockstep_workers.learning.rounds import Progress
from lockstep_workers.learning.strategy import ServerState
from tests.fuzz.shaping import file_in, in_ways, of_file, unframed, way_of
from tests.fuzz.stages import Target

N_VALUES = 6
LIKE = ServerState({"model": np.zeros(N_VALUES, np.float32)}, {"seen": 0.0})


@cache
def _folder() -> Path:
    """In memory, where there is such a place."""
    shared = Path("/dev/shm")
    return Path(tempfile.mkdtemp(dir=shared if shared.is_dir() else None))


def _file(name: str, content: bytes) -> Path:
    path = _folder() / name
    path.write_bytes(content)
    return path


# -- checkpoints -----------------------------------------------------------------------------------


def checkpoint(data: bytes) -> None:
    """A file on the cloud pod's volume: as it is, framed, or with a checksum that is right."""
    way, rest = way_of(data, 3)
    content = _sealed(rest) if way == 2 else file_in(bytes((way,)) + rest)
    found = read_checkpoint(_file("checkpoint", content), uid="u", like=LIKE)
    assert found.state.vectors["model"].shape == (N_VALUES,)
    assert found.state.numbers.keys() == {"seen"}
    assert all(math.isfinite(one) for one in {**found.state.numbers, **found.state.reach}.values())
    assert Progress.model_validate_json(found.progress.to_json()) == found.progress


def _sealed(text: bytes) -> bytes:
    """A checkpoint that says this: progress, numbers, reach, a line each."""
    lines = [line.decode(errors="replace") for line in (text + b"\n\n").split(b"\n", 2)]
    keys = ("progress", "numbers", "reach")
    told = {"format": checkpoints.FORMAT, "uid": "u"}
    told |= {key: line.strip() for key, line in zip(keys, lines, strict=True) if line.strip()}
    digest = checkpoints._digest(told, LIKE.vectors)
    return save(dict(LIKE.vectors), {**told, "sha256": digest})


def _whole_checkpoints() -> tuple[bytes, ...]:
    report = RoundReport(
        round=1, planned=True, seconds=1, elapsed_seconds=1, clients=[],
        energy_joules=EnergyJoules(),
    )  # fmt: skip
    plan = RoundPlan(round=1, rounds=2, participants=[])
    progress = Progress().after(report, plan)
    path = _folder() / "whole"
    write_checkpoint(path, Checkpoint(progress, LIKE), uid="u")
    file, told = path.read_bytes(), (progress.to_json(), '{"seen": 0.5}', '{"norm": 2.5}')
    return in_ways([file], [unframed(file)], ["\n".join(told).encode()])


# -- traces ----------------------------------------------------------------------------------------


_NOBODY_WAITS_S = 1e9


def trace(data: bytes) -> None:
    """A bandwidth trace from a user's ConfigMap."""
    read = parse_trace(data.decode(errors="replace"), source="t")
    moment = read.when(8e6)
    assert math.isfinite(moment)
    if moment < _NOBODY_WAITS_S:  # beyond that a float knows no microseconds
        assert read.bits_until(moment) >= 8e6 * (1 - 1e-6) - 10
        assert 0 <= read.mean_mbps(moment, 10.0) < math.inf


def trace_file(data: bytes) -> None:
    """A trace file that an allocation policy is trained or judged on."""
    read = parse(data.decode(errors="replace"), source="t")
    every = TraceSet.of([read], least_mbps=1e-3, most_mbps=1e6)
    moment = every.when(np.array([0]), np.array([8.0]))
    assert np.isfinite(moment).all()
    assert every.carried(np.array([0]), moment) == pytest.approx(8.0, rel=1e-6)


# -- policies and what they learn from -------------------------------------------------------------


def policy(data: bytes) -> None:
    """An allocation policy from a user's ConfigMap, or one that a trainer offers."""
    with np.errstate(all="ignore"):
        Policy.from_bytes(file_in(data), source="t")


def experience(data: bytes) -> None:
    """Recorded rounds from a ConfigMap that users may write."""
    with np.errstate(all="ignore"):
        read = Experience.from_bytes(file_in(data))
        for replay in read.replays():
            replay.cost(equalize_10s)
        assert len(Experience.from_bytes(read.to_bytes())) == len(read)


def _small_policy() -> bytes:
    networks = (
        ForecastNetwork(len(HISTORY_FEATURES) + 2, width=2),
        SetNetwork(len(FEATURES), OUTPUTS, width=2),
    )
    forecast, weights = (exported(network.eval()) for network in networks)
    told = Training(
        seed=0, split=0, minutes=0.0, updates=0, stopped="", train_sha256=(),
        validation_sha256=(), families=(), metrics={}, settings={},
    )  # fmt: skip
    return Policy(Forecaster(forecast), weights, told).to_bytes()


def _two_rounds() -> bytes:
    ones = np.ones((1, 2))
    devices = Devices(
        work=ones, upload=ones, min_ghz=ones, max_ghz=2 * ones, kappa=ones,
        alpha=np.ones((1, 2, 1)), beta=-np.ones((1, 2, 1)), idle_watts=ones, transmit_watts=ones,
        weight=np.ones((1, 1)),
    )  # fmt: skip
    seen = Observation(
        devices=devices, slots_mbps=np.ones((1, 2, 16)), last_mbps=ones, mean_mbps=ones
    )
    played = (
        Record(
            round=number, at_s=2.0 * number, clients=("a", "b"), observation=seen, ghz=ones[0],
            seconds=1.0, joules=ones[0], upload_s=ones[0],
        )
        for number in (1, 2)
    )  # fmt: skip
    return Experience(tuple(played)).to_bytes()


# -- data sets -------------------------------------------------------------------------------------


def idx_file(data: bytes) -> None:
    """A data file in the image: packed as it should be, or not even that."""
    way, rest = way_of(data, 2)
    found = IdxFile.at(_file("idx.gz", gzip.compress(rest, 0) if way == 0 else rest))
    assert found.read().shape == found.shape


_IDX = bytes((0, 0, 8, 2)) + b"\0\0\0\2\0\0\0\3" + b"abcdef"

TARGETS = {
    "checkpoint": Target(checkpoint, _whole_checkpoints(), (CorruptCheckpoint,)),
    "trace": Target(
        trace, (b"t_seconds,bandwidth_mbps\n0,1\n1,0\n2,5.5\n", b"0,2"), (InvalidTrace,)
    ),
    "trace_file": Target(
        trace_file,
        (b"1\n1\n3\n", b"0 1\n1 2.5\n", b"0 0 1 2 3000 1000\n"),
        (InvalidTrace,),
        anyhow=256 << 20,
    ),  # a Mahimahi file of one line may last a million seconds
    "policy": Target(policy, of_file(_small_policy()), (InvalidPolicy,)),
    "experience": Target(
        experience, of_file(_two_rounds(), Experience().to_bytes()), (InvalidExperience,)
    ),
    "idx_file": Target(
        idx_file, in_ways([_IDX], [gzip.compress(_IDX)]), (InvalidJob,), of_a_byte=2 * 1032
    ),  # DEFLATE makes so many of one, and a piece of them is held beside the whole
}
