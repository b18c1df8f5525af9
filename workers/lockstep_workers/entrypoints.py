"""The user's own functions, named `package.module:function`: found, called, explained when wrong.

Used by `data` and `models`, and the guard by whoever runs the user's code: training, evaluation and
the trial before round 1. That code runs with the pod's rights, in the image that the user chose.
Invariant: whatever it raises, SystemExit too, becomes an InvalidJob that says what, where and what
to change; only the end of the process that was asked for from outside passes.
"""

import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lockstep_workers.errors import InvalidJob, JobFailed
from lockstep_workers.stopping import Stopped
from lockstep_workers.words import last_words


@contextmanager
def explained(what: str, *, own: str | None = None, advice: str = "") -> Iterator[None]:
    """Makes an InvalidJob of whatever goes wrong inside.

    Args:
        what: what was done, with a verb that the error is the object of ("… raised").
        own: the entrypoint whose code runs inside.
        advice: what to change.
    """
    try:
        yield
    except (Stopped, JobFailed):
        raise
    except BaseException as error:
        text = f"{what} {last_words(error, own=own or '')}"
        raise InvalidJob(f"{text}: {advice}" if advice else text) from error


def call(entrypoint: str, arguments: Mapping[str, Any], *, field: str, args: str) -> Any:
    """Calls the user's function with keyword arguments.

    Args:
        entrypoint: the function.
        arguments: what it is called with.
        field: the field of the spec that names it, for errors.
        args: the one that the arguments are from.

    Raises:
        InvalidJob: there is no such function, the arguments do not fit, or it raised.
    """
    function = _find(entrypoint, field)
    signature = _signature(function)
    try:
        if signature is not None:
            signature.bind(**arguments)
    except TypeError as error:
        raise InvalidJob(f"{args} do not fit {entrypoint}{signature}: {error}") from error
    with explained(f"{field} {entrypoint} raised", own=entrypoint):
        made = function(**arguments)
    if inspect.iscoroutine(made):
        made.close()
        raise InvalidJob(f"{field} {entrypoint} is an async function: make it plain")
    return made


def _signature(function: Callable[..., Any]) -> inspect.Signature | None:
    """What a function takes; None: it does not tell, and the call itself will."""
    try:
        return inspect.signature(function)
    except (TypeError, ValueError):
        return None


def _find(entrypoint: str, field: str) -> Callable[..., Any]:
    module_name, _, name = entrypoint.partition(":")
    what = f"{field} {entrypoint}"
    with explained(f"{what}: importing {module_name} raised", own=entrypoint):
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise InvalidJob(f"{what}: {_not_found(error, entrypoint)}") from error
        function = getattr(module, name, None)
        if callable(function):
            found: Callable[..., Any] = function
            return found
        known = [key for key, value in vars(module).items() if inspect.isfunction(value)]
        raise InvalidJob(
            f"{what}: module {module_name} has no function {name}, only "
            f"{', '.join(known) or 'none'}"
        )


def _not_found(error: ModuleNotFoundError, entrypoint: str) -> str:
    """A module is missing: the one that was named, or one that it needs."""
    module_name = entrypoint.partition(":")[0]
    if error.name is not None and f"{module_name}.".startswith(f"{error.name}."):
        return (
            f"the image has no module {error.name}: put it into a folder of PYTHONPATH in the "
            "image that spec.image names"
        )
    return f"{last_words(error, own=entrypoint)}: install it in the image that spec.image names"
