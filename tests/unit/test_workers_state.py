"""What a model has beside its trained parameters, and the file that it ends as."""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lockstep_workers.cloud.store import Store
from lockstep_workers.data import Dataset, Examples
from lockstep_workers.errors import InvalidJob
from lockstep_workers.learning.client import Client
from lockstep_workers.learning.constants import constants, pack, unpack
from lockstep_workers.learning.parameters import flatten
from lockstep_workers.learning.strategies import fedavg
from lockstep_workers.learning.strategy import MODEL
from lockstep_workers.learning.training import Sgd, train
from lockstep_workers.learning.trial import Trial, try_out
from lockstep_workers.models import cnn, mlp
from tests.support.tasks import Task

SGD = Sgd(0.1, 0.9, 8)


def examples(*shape: int) -> Examples:
    """Examples of three classes with inputs of this shape."""
    inputs = np.random.default_rng(0).normal(size=(24, *shape)).astype(np.float32)
    return Examples(inputs, np.arange(24) % 3)


def try_it(module: nn.Module) -> None:
    """The trial of a module that takes twelve values."""
    data = examples(12)
    try_out(module, Trial(Dataset(data, data, 3), (np.arange(24),), SGD))


class Tied(nn.Module):
    """Two layers that are one."""

    def __init__(self) -> None:
        """Tied as people do it."""
        super().__init__()
        self.first, self.second = nn.Linear(12, 12), nn.Linear(12, 12, bias=False)
        self.second.weight = self.first.weight
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Scores."""
        return self.head(self.second(torch.relu(self.first(x))))  # type: ignore[no-any-return]


class Fourier(nn.Module):
    """Random features, a table, and a mask of whole numbers, none of which is trained."""

    frequencies: Tensor
    table: Tensor
    mask: Tensor

    def __init__(self, dtype: torch.dtype = torch.float32) -> None:
        """Drawn as this process' generators stand."""
        super().__init__()
        drawn = torch.from_numpy(np.random.default_rng().normal(size=(12, 8)))
        self.register_buffer("frequencies", drawn.to(dtype))
        self.register_buffer("table", torch.arange(3.0), persistent=False)
        self.register_buffer("mask", torch.tensor([True, False, True]))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Scores."""
        found = self.head(torch.sin(x @ self.frequencies)) + self.table * self.mask
        assert isinstance(found, Tensor)
        return found


class Frozen(nn.Module):
    """A layer that is not trained, and one that is."""

    def __init__(self) -> None:
        """Only the head is trained."""
        super().__init__()
        self.body = nn.Linear(12, 12).requires_grad_(False)
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Scores."""
        return self.head(torch.relu(self.body(x)))  # type: ignore[no-any-return]


class Complex(nn.Module):
    """A layer with a table of complex numbers."""

    turns: Tensor

    def __init__(self) -> None:
        """As rotary encodings have it."""
        super().__init__()
        self.register_buffer("turns", torch.polar(torch.ones(6), torch.rand(6)))
        self.head = nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Scores."""
        turned = torch.view_as_complex(x.view(-1, 6, 2)) * self.turns
        return self.head(torch.view_as_real(turned).flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("build", "shape"),
    [
        (mlp, (1, 28, 28)),
        (cnn, (1, 28, 28)),
        (Tied, (12,)),
        (Fourier, (12,)),
        (lambda: Fourier(torch.bfloat16).bfloat16(), (12,)),
        (Frozen, (12,)),
        (lambda: Frozen().bfloat16(), (12,)),
        (Complex, (12,)),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Linear(12, 3)), (12,)),
    ],
)
def test_a_saved_model_loads_strictly_and_gives_the_same_scores(
    tmp_path: Path, build: Callable[[], nn.Module], shape: tuple[int, ...]
) -> None:
    """Into a module that was built anew, by its own `load_state_dict`."""
    data, model = examples(*shape), flatten(build())
    train(model, data, steps=3, sgd=SGD, correction=None, seed=(1,))
    Store(tmp_path, "u1").save_model(model)
    fresh = build().float()
    told = fresh.load_state_dict(load_file(tmp_path / "model.safetensors"), strict=True)
    assert not told.missing_keys
    assert not told.unexpected_keys
    x = torch.from_numpy(data.inputs)
    assert torch.equal(fresh(x), model.module(x))


def test_a_tied_parameter_is_trained_once() -> None:
    module = Tied()
    plain = copy.deepcopy(module)
    model = flatten(module)
    assert model.vector.numel() == 12 * 12 + 12 + 12 * 3 + 3
    data = examples(12)
    train(model, data, steps=1, sgd=Sgd(0.1, 0.0, 24), correction=None, seed=(1,))
    assert module.first.weight.data_ptr() == module.second.weight.data_ptr()
    x, y = torch.from_numpy(data.inputs), torch.from_numpy(data.labels)
    nn.functional.cross_entropy(plain(x), y).backward()  # type: ignore[no-untyped-call]
    for got, old in zip(module.parameters(), plain.parameters(), strict=True):
        assert old.grad is not None
        torch.testing.assert_close(got, old - 0.1 * old.grad)


@pytest.mark.parametrize("build", [Tied, Fourier, Frozen, Complex])
def test_constants_and_ties_are_no_reason_to_refuse_a_model(
    build: Callable[[], nn.Module],
) -> None:
    try_it(build())


def test_frozen_parameters_do_not_travel_with_every_update() -> None:
    module = Frozen()
    before = module.body.weight.clone()
    model = flatten(module)
    assert model.vector.numel() == 12 * 3 + 3
    train(model, examples(12), steps=2, sgd=SGD, correction=None, seed=(1,))
    assert torch.equal(module.body.weight, before)


@pytest.mark.parametrize("build", [Fourier, Frozen, Complex, lambda: Fourier(torch.bfloat16)])
def test_clients_take_the_constants_over(build: Callable[[], nn.Module]) -> None:
    """Each process that builds the model draws others."""
    clouds, devices = flatten(build()).module, flatten(build()).module
    names = list(constants(clouds))
    assert names
    assert any(not torch.equal(constants(clouds)[n], constants(devices)[n]) for n in names)
    unpack(devices, pack(clouds))
    assert all(torch.equal(constants(clouds)[n], constants(devices)[n]) for n in names)


def test_a_model_without_constants_has_none_to_send() -> None:
    assert pack(mlp()) == b""
    unpack(mlp(), b"")


def test_constants_of_another_model_are_refused_by_name() -> None:
    with pytest.raises(InvalidJob, match=r"\(body.bias, body.weight, frequencies, …\)"):
        unpack(Frozen(), pack(Fourier()))
    with pytest.raises(InvalidJob, match=r"the function must build the same model in every pod"):
        unpack(mlp(), pack(Fourier()))


class Counting(nn.Module):
    """Counts its training passes in a buffer."""

    passes: Tensor

    def __init__(self, *, from_pass: int = 0) -> None:
        """Counts those after `from_pass`."""
        super().__init__()
        self.register_buffer("passes", torch.tensor(0))
        self.layer, self.seen, self.from_pass = nn.Linear(12, 3), 0, from_pass

    def forward(self, x: Tensor) -> Tensor:
        """Scores."""
        self.seen += self.training
        if self.seen > self.from_pass:
            self.passes += 1
        return self.layer(x)  # type: ignore[no-any-return]


class Teacher(Frozen):
    """Its frozen part follows the trained one."""

    def forward(self, x: Tensor) -> Tensor:
        """Scores."""
        if self.training:
            self.body.bias.mul_(0.9)
        return super().forward(x)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: nn.Sequential(nn.Linear(12, 3), nn.BatchNorm1d(3)),
            r"\(1.running_mean, 1.running_var, 1.num_batches_tracked\).*use GroupNorm or Layer",
        ),
        (lambda: nn.Sequential(nn.Linear(12, 3), nn.BatchNorm1d(3, momentum=None)), "GroupNorm"),
        (
            lambda: nn.utils.parametrizations.spectral_norm(nn.Linear(12, 3)),
            r"\(parametrizations.weight.0._u, .*_SpectralNorm must leave its buffers",
        ),
        (Counting, r"\(passes\).*Counting must leave its buffers and frozen parameters as"),
        (Teacher, r"\(body.bias\).*Linear must leave"),
    ],
)
def test_what_training_changes_beside_parameters_is_refused_by_name(
    build: Callable[[], nn.Module], message: str
) -> None:
    with pytest.raises(InvalidJob, match=message):
        try_it(build())


def test_running_statistics_that_are_off_are_none() -> None:
    try_it(nn.Sequential(nn.Linear(12, 3), nn.BatchNorm1d(3, track_running_stats=False)))


def test_a_buffer_that_changes_in_a_later_round_ends_that_training() -> None:
    """And is what it was: the next round begins like the first."""
    module = Counting(from_pass=3)
    model = flatten(module)
    client = Client(
        name="d-0", index=0, examples=examples(12), model=model, strategy=fedavg(), sgd=SGD, seed=0
    )
    start = {MODEL: model.vector.numpy().copy()}
    client.train(start, Task(1, 3))
    for number in (2, 3):
        with pytest.raises(InvalidJob, match=r"\(passes\)"):
            client.train(start, Task(number, 3))
        assert int(module.passes) == 0


class Caching(nn.Module):
    """Computes a table when it is first needed, and a longer one when that is."""

    cache: Tensor

    def __init__(self) -> None:
        """Nothing yet."""
        super().__init__()
        self.layer = nn.Linear(12, 3)
        self.register_buffer("cache", torch.zeros(0), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Scores."""
        if len(self.cache) < len(x):
            self.cache = torch.arange(len(x)).float()
        return self.layer(x) + self.cache[: len(x), None]  # type: ignore[no-any-return]


def test_a_cache_that_grows_is_not_training() -> None:
    try_it(Caching())


class Extra(Frozen):
    """Has a state that is no tensor."""

    def get_extra_state(self) -> dict[str, int]:
        """A figure."""
        return {"epoch": 3}

    def set_extra_state(self, state: object) -> None:
        """Takes it."""


def test_a_state_that_cannot_be_saved_is_refused_before_round_1() -> None:
    with pytest.raises(InvalidJob, match=r"_extra_state in the model's state_dict is dict, which"):
        try_it(Extra())
