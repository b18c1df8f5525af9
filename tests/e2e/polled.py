"""What gives no event: whether an apiserver has heard of a right, a rule or a kind already."""

import time
from collections.abc import Callable

from tests.cluster import api
from tests.cluster.errors import ClusterError
from tests.support.patience import PATIENCE_S, TIMEOUT


def until(holds: Callable[[], bool], why: str) -> None:
    """Asks again and again.

    Raises:
        TimeoutError: it never held, and `why` says what did not.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(why)
        time.sleep(0.2)


def is_done(*words: str, stdin: str | None = None) -> bool:
    """Whether kubectl ends well."""
    try:
        api.kubectl(*words, stdin=stdin)
    except ClusterError:
        return False
    return True


def wait_until_served(crd: str) -> None:
    """Until kubectl finds objects of a CRD by its name, such as `federatedjobs.lockstep.dev`.

    Discovery tells of them a moment after the CRD is Established.
    """
    api.kubectl("wait", "--for=condition=Established", f"crd/{crd}", TIMEOUT)
    until(lambda: is_done("get", crd, "-A", "--ignore-not-found"), f"{crd} is not served")


def wait_until_allowed(user: str, *words: str, within: str) -> None:
    """Until a user may do something in a namespace, such as `create leases`."""
    question = ("-n", within, "auth", "can-i", *words, f"--as={user}")
    until(lambda: is_done(*question), f"{user} may not {' '.join(words)}")
