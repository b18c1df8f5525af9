"""Settings of all tests."""

import os

from hypothesis import HealthCheck, settings

if "PYTEST_XDIST_WORKER" in os.environ:
    # As many processes as cores: one thread each, in what the tests start, too. NumPy and torch
    # read this when they are imported, after this file.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# Machines are shared: how long an example takes says nothing about the code. The same examples in
# every run, so that a change is judged by what it changes; `make fuzz` draws new ones.
settings.register_profile(
    "lockstep",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize="LOCKSTEP_NEW_EXAMPLES" not in os.environ,
)
settings.load_profile("lockstep")
