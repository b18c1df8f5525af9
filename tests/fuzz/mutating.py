"""Changes of inputs that know what JSON is: a value becomes another, and the rest stays readable.
Of a text without documents a figure becomes another, or a line moves.

Blind changes of a text mostly end at its parser. Half of the changes that Atheris asks for are made
here, wherever an input has a document; the others are its own.
"""

import copy
import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

_MOST_DOCUMENTS = 8
_DECODER = json.JSONDecoder()
_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, 2**31, 2**63, 10**40, 1e308, 5e-324, -0.0, float("nan"), float("inf"),
    "", "a", "x" * 300, "9" * 400, "-1", "1e9", "\0", "\ud800", "\u202e", "\u0663", "a/b", "a\nb",
    [], {}, [[]], [0] * 40, [[[[[[[[[[0]]]]]]]]]], {"": None},
)  # fmt: skip

_FIGURE = re.compile(r"[0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?")
_FIGURES = ("0", "-0", "1e-7", "1e-320", "1e10", "1e308", "9" * 30, "nan", "inf", "1_0", "\xb2")

Place = tuple[Any, Any]
"""A container, and the key or index of a value in it."""


def mutator(
    mutate: Callable[[bytes, int], bytes], seeds: Sequence[bytes]
) -> Callable[[bytes, int, int], bytes]:
    """For Atheris, whose own changes `mutate` makes.

    It keeps no input in whose reading it sees nothing new, as where a library reads it that is not
    in Python: so some changes begin with a seed.
    """

    def changed(data: bytes, most: int, seed: int) -> bytes:
        rng = random.Random(seed)
        data = rng.choice(seeds) if rng.random() < 0.25 else data
        made = with_another_value(data, rng) if rng.random() < 0.5 else data
        return made if made != data and len(made) <= most else mutate(data, most)

    return changed


def with_another_value(data: bytes, rng: random.Random) -> bytes:
    """The input with a value of a document changed, or a figure or line where it has none; as it is
    where it has nothing of all that."""
    text = data.decode("latin-1")
    found = _documents(text)
    if not found:
        return _with_another_figure(text, rng).encode("latin-1")
    document, begin, end = rng.choice(found)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        _change(document, rng)
    return (text[:begin] + json.dumps(document) + text[end:]).encode("latin-1")


def _with_another_figure(text: str, rng: random.Random) -> str:
    lines = text.split("\n")
    if len(lines) > 2 and rng.random() < 0.3:
        line = lines.pop(rng.randrange(len(lines)))
        for _ in range(rng.randrange(3)):
            lines.insert(rng.randrange(len(lines) + 1), line)
        return "\n".join(lines)
    figures = list(_FIGURE.finditer(text))
    if not figures:
        return text
    begin, end = rng.choice(figures).span()
    value = float(text[begin:end])
    others = (-value, value * 1.001, value * 1e6, value / 1e6, value + 1, rng.random() * 100)
    made = rng.choice((*map(repr, others), *_FIGURES))
    return text[:begin] + made + text[end:]


def _documents(text: str) -> list[tuple[Any, int, int]]:
    """The objects in a text that are not in another one, and where each begins and ends."""
    found: list[tuple[Any, int, int]] = []
    begin = text.find("{")
    for _ in range(_MOST_DOCUMENTS):
        if begin < 0:
            break
        try:
            document, end = _DECODER.raw_decode(text, begin)
        except (ValueError, RecursionError):
            end = begin + 1
        else:
            found.append((document, begin, end))
        begin = text.find("{", end)
    return found


def _places(value: Any) -> list[Place]:
    """Where the values of a document are."""
    found: list[Place] = []
    left = [value]
    while left:
        container = left.pop()
        keys = list(container) if isinstance(container, dict) else range(len(container))
        found += [(container, key) for key in keys]
        left += [container[key] for key in keys if isinstance(container[key], dict | list)]
    return found


def _change(document: Any, rng: random.Random) -> None:
    places = _places(document)
    if not places:
        document["a"] = copy.deepcopy(rng.choice(_VALUES))
        return
    container, key = rng.choice(places)
    match rng.randrange(5):
        case 0:
            other, name = rng.choice(places)
            container[key] = json.loads(json.dumps(other[name]))
        case 1:
            del container[key]
        case 2 if isinstance(container, list):
            container.extend([container[key]] * rng.randint(1, 40))
        case 2:
            container[rng.choice(("", "a", str(key) + "a"))] = container.pop(key)
        case 3 if isinstance(container[key], int | float):
            container[key] = rng.choice((-container[key], container[key] + 1, container[key] * 1e9))
        case _:
            container[key] = copy.deepcopy(rng.choice(_VALUES))
