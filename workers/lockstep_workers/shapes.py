"""A data set of small colour images that is drawn, not shipped: which shape, solid or striped.

`data` makes the built-in set `shapes32` of it. Each image has one object of one of five shapes,
solid or striped: ten classes, equally many of each. Colours, place, size, angle and stripes of the
object tell nothing, nor does what else is there: a background between two colours, striped or not,
bars and discs that are smaller than the object, and noise.
Invariant: images depend on seed and number alone.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIDE, CLASSES = 32, 10
_CLUTTER = 2
_BLOCK = 500  # images that are drawn at once

Array = NDArray[np.floating]
Shape = Callable[[Array, Array], Array]
"""Signed distance to an outline of about radius 1: negative inside."""


def _disc(x: Array, y: Array) -> Array:
    return np.hypot(x, y) - np.float32(0.9)


def _square(x: Array, y: Array) -> Array:
    return np.maximum(abs(x), abs(y)) - np.float32(0.8)


def _triangle(x: Array, y: Array) -> Array:
    slope = abs(x) * np.float32(0.866) + y * np.float32(0.5)
    return np.maximum(slope, -y) - np.float32(0.55)


def _ring(x: Array, y: Array) -> Array:
    return abs(np.hypot(x, y) - np.float32(0.72)) - np.float32(0.24)


def _cross(x: Array, y: Array) -> Array:
    arms: Array = np.minimum(
        np.maximum(abs(x), 3 * abs(y) - np.float32(0.2)),
        np.maximum(abs(y), 3 * abs(x) - np.float32(0.2)),
    )
    return arms - np.float32(0.95)


_SHAPES: tuple[Shape, ...] = (_disc, _square, _triangle, _ring, _cross)


@dataclass(frozen=True, slots=True)
class _Canvas:
    """Images under way, and the places of their pixels."""

    pixels: Array
    """(b, 3, side, side), 0 to 1."""
    x: Array
    """(side, side), -1 to 1."""
    y: Array
    rng: np.random.Generator

    def uniform(self, low: float, high: float) -> Array:
        """A number for each image, to be broadcast over its pixels: (b, 1, 1)."""
        drawn = self.rng.uniform(low, high, (len(self.pixels), 1, 1))
        return drawn.astype(np.float32)

    def colours(self) -> Array:
        """A colour for each image: (b, 3, 1, 1)."""
        return self.rng.random((len(self.pixels), 3, 1, 1), dtype=np.float32)

    def placed(self, *, size: tuple[float, float], room: float) -> tuple[Array, Array, Array]:
        """Coordinates of an object somewhere, of some size and angle; a pixel's length in them."""
        angle, scale = self.uniform(0, 2 * np.pi), self.uniform(*size)
        dx, dy = self.x - self.uniform(-room, room), self.y - self.uniform(-room, room)
        sine, cosine = np.sin(angle) / scale, np.cos(angle) / scale
        return dx * cosine + dy * sine, dy * cosine - dx * sine, 2 / (SIDE * scale)

    def paint(self, distance: Array, colour: Array, *, blur: Array) -> None:
        """Colours what is inside, with an edge of a pixel."""
        cover = np.clip(np.float32(0.5) - distance / blur, 0, 1)[:, np.newaxis]
        np.add(self.pixels, cover * (colour - self.pixels), out=self.pixels)


def images(count: int, *, seed: tuple[int, ...]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """So many images (n, 3, 32, 32) and their labels (n,): shape, plus 5 when it is striped."""
    rng = np.random.default_rng(np.random.SeedSequence(seed))
    labels = rng.permutation(np.arange(count, dtype=np.int64) % CLASSES)
    out = np.empty((count, 3, SIDE, SIDE), np.uint8)
    for start in range(0, count, _BLOCK):
        _draw(out[start : start + _BLOCK], labels[start : start + _BLOCK], rng=rng)
    return out, labels


def _draw(out: NDArray[np.uint8], labels: NDArray[np.int64], *, rng: np.random.Generator) -> None:
    line = np.linspace(-1, 1, SIDE, dtype=np.float32)
    x, y = np.meshgrid(line, line)
    canvas = _Canvas(np.zeros((len(labels), 3, SIDE, SIDE), np.float32), x, y, rng)
    _background(canvas)
    _object(canvas, labels)
    noise = rng.standard_normal(canvas.pixels.shape, dtype=np.float32)
    out[:] = np.clip(255 * (canvas.pixels + np.float32(0.04) * noise), 0, 255).astype(np.uint8)


def _background(canvas: _Canvas) -> None:
    """A colour that runs into another one, and small bars and discs."""
    first, second = canvas.colours(), canvas.colours()
    u, _, _ = canvas.placed(size=(1, 1), room=0.5)
    share = np.clip(np.float32(0.25) + np.float32(0.25) * u, 0, 1)
    canvas.pixels[:] = first + share[:, np.newaxis] * (second - first)
    for _ in range(_CLUTTER):
        u, v, blur = canvas.placed(size=(0.1, 0.2), room=0.9)
        bar = np.maximum(abs(u) - np.float32(1.4), abs(v) - np.float32(0.4))
        is_bar = canvas.uniform(0, 1) < 0.5
        canvas.paint(np.where(is_bar, bar, _disc(u, v)), canvas.colours(), blur=blur)


def _object(canvas: _Canvas, labels: NDArray[np.int64]) -> None:
    """The object; stripes are of two colours that are well apart."""
    u, v, blur = canvas.placed(size=(0.5, 0.8), room=0.2)
    distance = np.empty_like(u)
    for number, shape in enumerate(_SHAPES):
        of_it = labels % len(_SHAPES) == number
        distance[of_it] = shape(u[of_it], v[of_it])
    first = canvas.colours()
    second = (first + np.float32(0.35) + np.float32(0.3) * canvas.colours()) % 1
    striped = (labels >= len(_SHAPES))[:, np.newaxis, np.newaxis]
    share = np.where(striped, _stripes(canvas, u), np.float32(0))
    canvas.paint(distance, first + share[:, np.newaxis] * (second - first), blur=blur)


def _stripes(canvas: _Canvas, u: Array) -> Array:
    """0 or 1 in turn along u, with soft edges."""
    wave = np.sin(canvas.uniform(5, 7) * u + canvas.uniform(0, 2 * np.pi))
    return np.clip(np.float32(0.5) + 2 * wave, 0, 1)
