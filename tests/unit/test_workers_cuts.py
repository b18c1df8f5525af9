"""Where a model can be cut, and what is measured of each cut."""

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lockstep_api.tiers import MOST_CUTS, CutCandidate
from lockstep_workers.errors import InvalidJob
from lockstep_workers.learning.cuts import candidates
from lockstep_workers.learning.halves import halves, layer_names
from lockstep_workers.learning.parameters import flatten
from lockstep_workers.models import cnn, mlp
from lockstep_workers.residual import resnet10


def by_layer(module: nn.Module, *shape: int) -> dict[str, CutCandidate]:
    return {one.layer: one for one in candidates(module, shape)}


def flops_share(one: CutCandidate) -> float:
    return one.front_flops / (one.front_flops + one.back_flops)


def saved_share(one: CutCandidate) -> float:
    return one.saved_bytes / one.whole_saved_bytes


def test_the_first_pooling_of_the_built_in_cnn_is_a_cheap_place_to_cut() -> None:
    cut = by_layer(cnn(), 1, 28, 28)["3"]
    assert flops_share(cut) == pytest.approx(0.0765, abs=1e-4)
    assert saved_share(cut) == pytest.approx(0.612, abs=1e-3)
    assert (cut.cut_values, cut.front_values) == (3136, 448)


def test_operations_are_those_of_convolutions_and_products_forward_and_backward() -> None:
    """A multiplication and an addition are two; the first layer's input gets no gradient."""
    found = by_layer(cnn(), 1, 28, 28)
    first = 2 * (5 * 5 * 1) * 16 * 28 * 28
    second = 2 * (5 * 5 * 16) * 32 * 14 * 14
    last = 2 * (32 * 7 * 7) * 10
    assert found["0"].front_flops == found["3"].front_flops == 2 * first
    assert found["3"].back_flops == 3 * (second + last)
    assert found["8"].front_flops == 2 * first + 3 * second


def test_what_is_kept_is_counted_once_and_without_the_models_own_tensors() -> None:
    """mlp: its input (Linear), the hidden layer after ReLU (ReLU and Linear, one memory)."""
    found = by_layer(mlp(hidden=8, inputs=20), 20)
    assert found["1"].saved_bytes == 20 * 4
    assert found["2"].saved_bytes == found["2"].whole_saved_bytes == (20 + 8) * 4


@pytest.mark.parametrize("build", [cnn, resnet10])
def test_halves_that_run_alone_take_what_was_measured_of_the_whole(build: type[nn.Module]) -> None:
    """Each cut again, as devices and edges compute it."""
    module = build(height=8, width=8)
    shape = (3, 8, 8) if build is resnet10 else (1, 8, 8)
    for layer, cut in by_layer(module, *shape).items():
        half = halves(flatten(module), layer)
        with FlopCounterMode(display=False) as front:
            activations = half.front(torch.zeros(2, *shape))
            activations.sum().backward()
        leaf = activations.detach().requires_grad_()
        with FlopCounterMode(display=False) as back:
            half.back(leaf).sum().backward()
        assert 2 * cut.front_flops == front.get_total_flops()
        assert 2 * cut.back_flops == back.get_total_flops()
        assert cut.cut_values == activations[0].numel()
        assert cut.front_values == half.n_front


def test_measuring_leaves_the_model_and_torchs_generator_as_they_were() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5), nn.Linear(4, 2)).eval()
    before = [p.clone() for p in module.parameters()]
    state = torch.random.get_rng_state()
    candidates(module, [3])
    assert all(torch.equal(p, old) for p, old in zip(module.parameters(), before, strict=True))
    assert all(p.grad is None for p in module.parameters())
    assert not module.training
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_layer_whose_output_the_next_one_changes_in_place_is_no_place_to_cut() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    assert layer_names(module) == ["0", "1"]
    assert list(by_layer(module, 3)) == ["1"]


class Pair(nn.Module):
    """Gives two tensors."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


class First(nn.Module):
    """Takes the first of two."""

    def forward(self, both: tuple[Tensor, Tensor]) -> Tensor:
        return both[0] + both[1]


def test_a_layer_that_gives_no_single_tensor_is_no_place_to_cut() -> None:
    module = nn.Sequential(nn.Linear(3, 4), Pair(), First(), nn.Linear(4, 2))
    assert list(by_layer(module, 3)) == ["0", "2"]


def test_a_model_that_can_be_cut_nowhere_is_told_so() -> None:
    with pytest.raises(InvalidJob, match=r"mode split cuts an nn\.Sequential"):
        candidates(nn.Linear(3, 2), [3])
    inplace = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Flatten())
    with pytest.raises(InvalidJob, match="after none of its layers"):
        candidates(inplace, [3])


def test_a_layer_that_raises_is_named() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(5, 2))
    with pytest.raises(InvalidJob, match="measuring the model's layers"):
        candidates(module, [3])


def test_of_very_many_layers_some_are_told_evenly() -> None:
    module = nn.Sequential(*(nn.Linear(2, 2) for _ in range(3 * MOST_CUTS + 1)))
    found = [int(one.layer) for one in candidates(module, [2])]
    assert len(found) == MOST_CUTS
    assert found == list(range(0, 3 * MOST_CUTS, 3))
