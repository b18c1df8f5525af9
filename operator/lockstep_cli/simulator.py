"""The simulator's commands, where it is installed (extra `simulate`).

Invariant: a user's own model and data may lie in the current folder.
"""

import sys

from lockstep_simulator.cli import app

__all__ = ["app"]

if "" not in sys.path:
    sys.path.insert(0, "")
