"""One thread, as a device has, so that sums are added in one order; undone afterwards.

Around whatever of a simulation computes with torch.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from lockstep_workers.learning.training import be_deterministic, flush_denormals


@contextmanager
def repeating(*, deterministic: bool) -> Iterator[None]:
    """As a pod sets itself up; `deterministic` as in `training.deterministic`."""
    threads = torch.get_num_threads()
    before = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.set_num_threads(1)
    flush_denormals()
    if deterministic:
        be_deterministic()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_flush_denormal(False)
        if deterministic:  # for whom that costs nothing any more: it imports much
            torch.use_deterministic_algorithms(before, warn_only=warns)
