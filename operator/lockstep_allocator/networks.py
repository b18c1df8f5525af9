"""The networks' forward passes in NumPy, for where there is no torch; weights come as a dictionary.

`training.nets` has the same networks in torch, under the same names; a test holds them together.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

Weights = Mapping[str, NDArray[np.float32]]
Activations = NDArray[np.float32]

BLOCKS = 2
_EPSILON = 1e-5


def linear(weights: Weights, name: str, x: Activations) -> Activations:
    """x·Wᵀ + b over the last axis."""
    return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]


def silu(x: Activations) -> Activations:
    """x·sigmoid(x)."""
    return x * sigmoid(x)


def sigmoid(x: Activations) -> Activations:
    """1/(1 + e^-x), by tanh: no overflow."""
    return np.float32(0.5) * (1 + np.tanh(np.float32(0.5) * x))


def layer_norm(weights: Weights, name: str, x: Activations) -> Activations:
    """LayerNorm over the last axis."""
    centred = x - x.mean(-1, keepdims=True)
    spread = np.sqrt((centred**2).mean(-1, keepdims=True) + np.float32(_EPSILON))
    return centred / spread * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def set_network(weights: Weights, x: Activations) -> Activations:
    """(E, N, F) features → (E, N, outputs); equivariant to the order of devices, for any N.

    An MLP on each device, residual blocks on [h, mean h, max h], one head (Deep Sets, Zaheer et
    al. 2017, with the pooled context fed back).
    """
    h = linear(weights, "enter.2", silu(linear(weights, "enter.0", x)))
    h = silu(h)
    for block in range(BLOCKS):
        z = layer_norm(weights, f"norm.{block}", h)
        pooled = np.concatenate([z.mean(1, keepdims=True), z.max(1, keepdims=True)], -1)
        around = np.broadcast_to(pooled, (*z.shape[:2], pooled.shape[-1]))
        mixed = np.concatenate([z, around], -1)
        h = h + linear(
            weights, f"block.{block}.2", silu(linear(weights, f"block.{block}.0", mixed))
        )
    return linear(weights, "leave.2", silu(linear(weights, "leave.0", silu(h))))


def forecast_network(weights: Weights, x: Activations) -> Activations:
    """(…, F) features → (…, 3·K) parameters of a mixture."""
    h = silu(linear(weights, "layers.0", x))
    h = silu(linear(weights, "layers.2", h))
    return linear(weights, "layers.4", h)
