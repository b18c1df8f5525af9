"""What an error in the user's code says to people: type, text, and the line of theirs it came from.

Used by `entrypoints`, whose guard makes such an error one that ends the job, and by whoever names
things of the user's code. Invariant: whatever the error is, even one whose own text cannot be had,
the words are short and can be written down.
"""

import inspect
import sys
import sysconfig
import traceback
from types import FrameType

from torch import nn

from lockstep_api.text import cut

_MOST = 700
"""Characters of an error's own text."""
_OURS = ("lockstep_workers", "lockstep_api", "lockstep_serving")
_LIBRARY = tuple(
    {f"{sysconfig.get_path(name)}/" for name in ("stdlib", "platstdlib", "purelib", "platlib")}
)
_INSTALLED = ("/site-packages/", "/dist-packages/")


def last_words(error: BaseException, *, own: str = "") -> str:
    """Type and text of an error, and where it came from.

    Args:
        error: what was raised.
        own: the entrypoint whose code it is, if it is one's: `package.module:function`.
    """
    where = _place(error, own.partition(":")[0].partition(".")[0]) or where_defined(own)
    return f"{type(error).__name__}: {_text(error)}{_layer(error)}" + (
        f" at {where}" if where else ""
    )


def where_defined(entrypoint: str) -> str:
    """File and line of a function that has been imported; empty when they are not known."""
    module, _, name = entrypoint.partition(":")
    try:
        function = inspect.unwrap(vars(sys.modules[module])[name])
        code = getattr(function, "__code__", None)
        if code is not None:
            return f"{code.co_filename}:{code.co_firstlineno}"
        return f"{inspect.getsourcefile(function)}:{inspect.getsourcelines(function)[1]}"
    except Exception:  # noqa: BLE001 - what is not known is left out
        return ""


def some(names: list[str]) -> str:
    """The first few names."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def _text(error: BaseException) -> str:
    """The error's own text, as one line that can be written as UTF-8."""
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - its __str__ is the user's code, too
        text = "(its text cannot be had)"
    line = " ".join(text.split()).encode("utf-8", "backslashreplace").decode()
    return cut(line, _MOST)


def _place(error: BaseException, own: str) -> str:
    """File and line of the user's that raised it, or called what raised it; empty: none did."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    theirs = [
        f"{frame.f_code.co_filename}:{line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if _is_theirs(frame, own)
    ]
    return theirs[-1] if theirs else ""


def _is_theirs(frame: FrameType, own: str) -> bool:
    top = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    if own and top == own:
        return True
    file = frame.f_code.co_filename
    installed = file.startswith(_LIBRARY) or any(part in file for part in _INSTALLED)
    return top not in _OURS and not installed and not file.startswith("<")


def _layer(error: BaseException) -> str:
    """Which layer of a model raised it, by its path in the model; empty: it came from none."""
    layers = [
        layer for frame, _ in traceback.walk_tb(error.__traceback__)
        if isinstance(layer := frame.f_locals.get("self"), nn.Module)
    ]  # fmt: skip
    if not layers:
        return ""
    root, last = layers[0], layers[-1]
    path = next((name for name, layer in root.named_modules() if layer is last), "")
    return f" in layer {path} ({type(last).__name__})" if path else ""
