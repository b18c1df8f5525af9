"""How long tests wait for what must come: one figure, for those that wait by an event.

A test that passes does not get near it, however busy the machine is; it only ends those that hang.
"""

PATIENCE_S = 300.0
TIMEOUT = f"--timeout={PATIENCE_S:.0f}s"
"""The same for `kubectl wait` and `helm --wait`."""
