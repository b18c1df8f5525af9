"""The networks' forward passes in NumPy, for where there is no torch; weights come as a dictionary.

`training.nets` has the same networks in torch, under the same names; a test holds them together.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Weights = Mapping[str, NDArray[np.float32]]
Shapes = Mapping[str, tuple[int, ...]]
Activations = NDArray[np.float32]

BLOCKS = 2
_EPSILON = 1e-5


# -- what weights a network has -------------------------------------------------------------------


def set_shapes(*, features: int, outputs: int, width: int) -> Shapes:
    """The weights of `set_network`."""
    return {
        **_linear("enter.0", features, out=width),
        **_linear("enter.2", width, out=width),
        **{
            name: shape
            for block in range(BLOCKS)
            for name, shape in (
                *_linear(f"block.{block}.0", 3 * width, out=width).items(),
                *_linear(f"block.{block}.2", width, out=width).items(),
                (f"norm.{block}.weight", (width,)),
                (f"norm.{block}.bias", (width,)),
            )
        },
        **_linear("leave.0", width, out=width),
        **_linear("leave.2", width, out=outputs),
    }


def forecast_shapes(*, features: int, outputs: int, width: int) -> Shapes:
    """The weights of `forecast_network`."""
    return {
        **_linear("layers.0", features, out=width),
        **_linear("layers.2", width, out=width),
        **_linear("layers.4", width, out=outputs),
    }


def _linear(name: str, into: int, *, out: int) -> Shapes:
    return {f"{name}.weight": (out, into), f"{name}.bias": (out,)}


# -- forward passes --------------------------------------------------------------------------------


def silu(x: Activations) -> Activations:
    """x·sigmoid(x)."""
    return x * sigmoid(x)


def sigmoid(x: Activations) -> Activations:
    """1/(1 + e^-x), by tanh: no overflow."""
    return np.float32(0.5) * (1 + np.tanh(np.float32(0.5) * x))


@dataclass(frozen=True, slots=True)
class _Layers:
    """The layers of a network, by the names of their weights."""

    weights: Weights

    def linear(self, name: str, x: Activations) -> Activations:
        """x·Wᵀ + b over the last axis."""
        return x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]

    def mlp(self, name: str, x: Activations) -> Activations:
        """Two linear layers, `name.0` and `name.2`, with a SiLU between them."""
        return self.linear(f"{name}.2", silu(self.linear(f"{name}.0", x)))

    def norm(self, name: str, x: Activations) -> Activations:
        """LayerNorm over the last axis."""
        centred = x - x.mean(-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(-1, keepdims=True) + np.float32(_EPSILON))
        return centred / spread * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]


def set_network(weights: Weights, x: Activations) -> Activations:
    """(E, N, F) features → (E, N, outputs); equivariant to the order of devices, for any N.

    An MLP on each device, residual blocks on [h, mean h, max h], one head (Deep Sets, Zaheer et
    al. 2017, with the pooled context fed back).
    """
    layers = _Layers(weights)
    h = silu(layers.mlp("enter", x))
    for block in range(BLOCKS):
        z = layers.norm(f"norm.{block}", h)
        pooled = np.concatenate([z.mean(1, keepdims=True), z.max(1, keepdims=True)], -1)
        around = np.broadcast_to(pooled, (*z.shape[:2], pooled.shape[-1]))
        h = h + layers.mlp(f"block.{block}", np.concatenate([z, around], -1))
    return layers.mlp("leave", silu(h))


def forecast_network(weights: Weights, x: Activations) -> Activations:
    """(…, F) features → (…, 3·K) parameters of a mixture."""
    layers = _Layers(weights)
    return layers.linear("layers.4", silu(layers.mlp("layers", x)))
