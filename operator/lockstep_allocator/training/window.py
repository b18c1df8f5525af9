"""What one update learns from: a window of rounds as tensors, and the settings of the algorithm.

`collecting` makes windows, `ppo` learns from them and throws them away.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from lockstep_allocator.policy import Situation, borders


@dataclass(frozen=True, slots=True)
class PpoSettings:
    """Settings of the algorithm; the patent's numbers where it names them."""

    window: int = 20
    """Rounds between two updates (N in CN113312169B)."""
    actions: int = 8
    """Actions tried for each device and round; the first is played."""
    discount: float = 0.0
    """γ. Rounds couple only through their start time: 0 … 0.7 are sensible."""
    trace_decay: float = 0.95
    """λ of GAE; of use with a discount only."""
    clip: float = 0.2
    """ε of the clipped ratio."""
    epochs: int = 2
    """Passes over a window."""
    minibatches: int = 16
    """Steps of a pass."""
    target_kl: float = 1.0
    """A step that has moved the policy further ends the update: a guard, the clip does the work."""
    gradient_norm: float = 0.5
    """Gradients are clipped to this."""
    value_weight: float = 0.5
    """Weight of the value loss."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Frame:
    """The equaliser's round and the borders, all (B, N)."""

    finish: Tensor
    upload: Tensor
    rest: Tensor
    shift: Tensor
    least: Tensor
    greatest: Tensor

    @classmethod
    def of(cls, at: Situation) -> "Frame":
        """From a situation."""
        least, greatest = borders(at.devices)
        rest = at.finish_s - at.seen.upload_s - at.seen.even.compute_s
        parts = {
            "finish": np.broadcast_to(at.finish_s, rest.shape), "upload": at.seen.upload_s,
            "rest": rest, "shift": at.shift_s, "least": least, "greatest": greatest,
        }  # fmt: skip
        return cls(**{n: torch.from_numpy(np.array(part, np.float32)) for n, part in parts.items()})

    def rows(self, index: Tensor) -> "Frame":
        """Some of the rows."""
        return Frame(**{name: getattr(self, name)[index] for name in Frame.__slots__})

    @staticmethod
    def stacked(frames: Sequence["Frame"]) -> "Frame":
        """One after the other."""
        return Frame(**{n: torch.cat([getattr(f, n) for f in frames]) for n in Frame.__slots__})


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Window:
    """Rounds of one group of fleets, rows = rounds × environments."""

    features: Tensor
    """(B, N, F)."""
    frame: Frame
    """What turns outputs into positions, (B, N)."""
    actions: Tensor
    """(B, N, K) logits of positions."""
    log_probability: Tensor
    """(B, N, K) under the policy that chose them."""
    advantage: Tensor
    """(B, N, K)."""
    returns: Tensor
    """(B, N) discounted reward from here on, of the played action."""

    def rows(self, index: Tensor) -> "Window":
        """Some of the rows."""
        return Window(
            features=self.features[index],
            frame=self.frame.rows(index),
            actions=self.actions[index],
            log_probability=self.log_probability[index],
            advantage=self.advantage[index],
            returns=self.returns[index],
        )

    def __len__(self) -> int:
        return len(self.features)
