"""The user's own functions, named `package.module:function`: found, called, explained when wrong.

Used by `data` and `models`. The function runs with the pod's rights, in the image that the user
chose; whatever goes wrong in it becomes an InvalidJob that says where and what to change.
"""

import importlib
import inspect
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from lockstep_workers.errors import InvalidJob


def call(entrypoint: str, arguments: Mapping[str, Any], *, field: str) -> Any:
    """Calls the user's function with keyword arguments; `field` names it in errors.

    Raises:
        InvalidJob: there is no such function, the arguments do not fit, or it raised.
    """
    function = _find(entrypoint, field)
    try:
        inspect.signature(function).bind(**arguments)
    except TypeError as error:
        raise InvalidJob(
            f"{field}.args do not fit {entrypoint}{inspect.signature(function)}: {error}"
        ) from error
    except ValueError:  # a builtin without a signature: the call itself will tell
        pass
    try:
        return function(**arguments)
    except Exception as error:
        raise InvalidJob(f"{field}.entrypoint {entrypoint} raised {_last_words(error)}") from error


def _find(entrypoint: str, field: str) -> Callable[..., Any]:
    module_name, _, name = entrypoint.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
            raise InvalidJob(
                f"{field}.entrypoint {entrypoint}: the image has no module {error.name}: put it "
                "into a folder of PYTHONPATH in the image that spec.image names"
            ) from error
        raise InvalidJob(f"{field}.entrypoint {entrypoint}: {_last_words(error)}") from error
    except Exception as error:
        raise InvalidJob(
            f"{field}.entrypoint {entrypoint}: importing {module_name} raised {_last_words(error)}"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise InvalidJob(
            f"{field}.entrypoint {entrypoint}: module {module_name} has no function {name}, only "
            f"{', '.join(known) or 'none'}"
        )
    found: Callable[..., Any] = function
    return found


def _last_words(error: BaseException) -> str:
    """Type, message, and the line of the user's code that it came from."""
    frames = traceback.extract_tb(error.__traceback__)
    theirs = [f for f in frames if f.filename != __file__ and not f.filename.startswith("<")]
    where = f" at {theirs[-1].filename}:{theirs[-1].lineno}" if theirs else ""
    return f"{type(error).__name__}: {error}{where}"
