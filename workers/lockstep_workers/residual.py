"""Residual networks with GroupNorm, whole (`models`) and for the cloud's half of a split model.

Invariant: each is a Sequential whose children are the layers after which it can be cut, and no
layer knows of other examples of a batch: a batch may be dealt out to several devices.
"""

import math
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

_GROUPS = 8
_SMALLEST = 8  # pixels of a side
_STAGES = 4
_SMALLEST_MAP = 4  # pixels of a side that the deeper model does not halve further
_MOST_CHANNELS = 512  # of the deeper model, where the cut has no more


class Residual(nn.Module):
    """relu(x + g(x)), g two 3×3 convolutions with GroupNorm (He et al. 2016, Wu and He 2018).

    Where the shape changes, x goes through a 1×1 convolution with GroupNorm.
    """

    def __init__(self, channels: tuple[int, int], *, stride: int = 1) -> None:
        """From so many channels to so many; `stride` 2 halves the image."""
        super().__init__()
        before, after = channels
        self.body = nn.Sequential(
            nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
            nn.GroupNorm(_GROUPS, after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.GroupNorm(_GROUPS, after),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or before != after:
            self.shortcut = nn.Sequential(
                nn.Conv2d(before, after, 1, stride=stride, bias=False), nn.GroupNorm(_GROUPS, after)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Images (b, channels, height, width)."""
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet10(
    *, channels: int = 16, classes: int = 10, colours: int = 3, height: int = 32, width: int = 32
) -> nn.Module:
    """A stem and four stages of one residual block each, for (colours, height, width) images."""
    _check_sizes(channels, (classes, colours), sides=(height, width))
    return _resnet(channels, blocks=1, classes=classes, colours=colours)


def resnet18(
    *, channels: int = 64, classes: int = 10, colours: int = 3, height: int = 32, width: int = 32
) -> nn.Module:
    """The same with two residual blocks a stage."""
    _check_sizes(channels, (classes, colours), sides=(height, width))
    return _resnet(channels, blocks=2, classes=classes, colours=colours)


def _check_sizes(channels: object, counts: tuple[object, object], *, sides: object) -> None:
    if not isinstance(channels, int) or channels < 1 or channels % _GROUPS:
        raise ValueError(f"channels must be a positive multiple of {_GROUPS}, not {channels!r}")
    for name, value in zip(("classes", "colours"), counts, strict=True):
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} must be a positive whole number, not {value!r}")
    for side in sides if isinstance(sides, tuple) else ():
        if not isinstance(side, int) or side < _SMALLEST:
            raise ValueError(f"height and width must be at least {_SMALLEST} pixels, not {side!r}")


def _resnet(channels: int, *, blocks: int, classes: int, colours: int) -> nn.Sequential:
    """Every stage but the first halves the image and doubles the channels."""
    sizes = [channels, *(channels << stage for stage in range(_STAGES))]
    stages = {
        f"stage{stage}": _stage(change, blocks=blocks, stride=1 if stage == 1 else 2)
        for stage, change in enumerate(pairwise(sizes), start=1)
    }
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(sizes[-1], classes))
    return nn.Sequential(OrderedDict(stem=_convolution((colours, channels)), **stages, head=head))


def _stage(channels: tuple[int, int], *, blocks: int, stride: int) -> nn.Sequential:
    after = channels[1]
    first = Residual(channels, stride=stride)
    return nn.Sequential(first, *(Residual((after, after)) for _ in range(blocks - 1)))


def _convolution(channels: tuple[int, int], *, stride: int = 1) -> nn.Sequential:
    before, after = channels
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
        nn.GroupNorm(_GROUPS, after),
        nn.ReLU(),
    )


def deeper(shape: Sequence[int], *, classes: int) -> nn.Module:
    """A cloud's half for activations of this shape, deeper than a built-in edge's.

    Images (channels, height, width) are halved by a convolution with a residual block behind it,
    until a side has fewer than eight pixels; of other activations it is a perceptron.
    """
    if len(shape) == 3 and min(shape[1:]) > 1:
        return nn.Sequential(*_deeper_images(shape, classes=classes))
    values, hidden = math.prod(shape), 256
    return nn.Sequential(
        nn.Flatten(), nn.Linear(values, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(),
        nn.Linear(hidden, classes),
    )  # fmt: skip


def _deeper_images(shape: Sequence[int], *, classes: int) -> Iterator[nn.Module]:
    before, height, width = shape
    halvings = max(1, int(math.log2(min(height, width) / _SMALLEST_MAP)))
    most = _GROUPS * math.ceil(max(before, _MOST_CHANNELS) / _GROUPS)
    after = min(_GROUPS * math.ceil(3 * before / _GROUPS), most)
    for _ in range(halvings):
        yield _convolution((before, after), stride=2)
        yield Residual((after, after))
        height, width = math.ceil(height / 2), math.ceil(width / 2)
        before, after = after, min(2 * after, most)
    yield nn.Flatten()
    yield nn.Linear(before * height * width, classes)
