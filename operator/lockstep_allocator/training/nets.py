"""The networks in torch; `lockstep_allocator.networks` is the same in NumPy."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lockstep_allocator.forecast import CENTRES, COMPONENTS, LEAST_SCALE
from lockstep_allocator.networks import BLOCKS


class SetNetwork(nn.Module):
    """(E, N, F) → (E, N, outputs), permutation-equivariant; begins at 0 for every input."""

    def __init__(self, features: int, outputs: int, *, width: int = 64) -> None:
        super().__init__()
        self.enter = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))
        self.block = nn.ModuleList(
            nn.Sequential(nn.Linear(3 * width, width), nn.SiLU(), nn.Linear(width, width))
            for _ in range(BLOCKS)
        )
        self.norm = nn.ModuleList(nn.LayerNorm(width) for _ in range(BLOCKS))
        last = nn.Linear(width, outputs)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.leave = nn.Sequential(nn.Linear(width, width), nn.SiLU(), last)

    def forward(self, x: Tensor) -> Tensor:
        """The network."""
        h = nn.functional.silu(self.enter(x))
        for block, norm in zip(self.block, self.norm, strict=True):
            z = norm(h)
            pooled = torch.cat([z.mean(1, True), z.amax(1, True)], -1)  # (E, 1, 2W)
            h = h + block(torch.cat([z, pooled.expand(-1, z.shape[1], -1)], -1))
        return self.leave(nn.functional.silu(h))


class ForecastNetwork(nn.Module):
    """(…, F) → (…, 3·K): weights, locations and scales of a mixture of logistics."""

    def __init__(self, features: int, *, width: int = 64, dropout: float = 0.1) -> None:
        super().__init__()
        # Dropout is part of the activations, so that the names of the layers are those of NumPy's.
        self.layers = nn.Sequential(
            nn.Linear(features, width), nn.Sequential(nn.SiLU(), nn.Dropout(dropout)),
            nn.Linear(width, width), nn.Sequential(nn.SiLU(), nn.Dropout(dropout)),
            nn.Linear(width, 3 * COMPONENTS),
        )  # fmt: skip

    def loss(self, x: Tensor, log_ratio: Tensor) -> Tensor:
        """Mean negative log likelihood of log(u/û), shape (…)."""
        mix, centre, scale = self.layers(x).split(COMPONENTS, -1)
        centre = centre + torch.from_numpy(CENTRES)
        scale = nn.functional.softplus(scale - 1) + LEAST_SCALE
        z = (log_ratio[..., None] - centre) / scale
        density = z - 2 * nn.functional.softplus(z) - scale.log()
        return -torch.logsumexp(nn.functional.log_softmax(mix, -1) + density, -1).mean()


def exported(module: nn.Module) -> dict[str, NDArray[np.float32]]:
    """The weights for NumPy."""
    return {name: value.detach().numpy().copy() for name, value in module.state_dict().items()}


def imported(module: nn.Module, weights: Mapping[str, NDArray[np.float32]]) -> None:
    """Takes weights that were exported."""
    module.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})


@torch.no_grad()
def blend(average: nn.Module, network: nn.Module, *, share: float) -> None:
    """Moves the weights of an average towards those of a network by a share of the way."""
    for kept, value in zip(average.parameters(), network.parameters(), strict=True):
        kept.lerp_(value, share)
