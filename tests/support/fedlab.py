"""FedLab (Zeng et al. 2023): the same methods by other authors, for curves to be equal to.

Its data sets, which want 200 MB of packages, are left out: of `fedlab.contrib.dataset` only what
its trainers import is found. What it does to the process' logging is undone.
"""

import logging
import sys
import warnings
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

QUIET = logging.getLogger("fedlab")
"""What its parts take as `logger`; without one they change the root logger."""


def _without_data_sets() -> None:
    spec = find_spec("fedlab")
    assert spec is not None
    assert spec.origin is not None
    package = ModuleType("fedlab.contrib.dataset")
    package.__path__ = [str(Path(spec.origin).parent / "contrib" / "dataset")]
    sys.modules[package.__name__] = package


_without_data_sets()
_root, _level, _handlers = logging.getLogger(), logging.getLogger().level, [*logging.root.handlers]
with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own syntax, when it is compiled
    from fedlab.contrib.algorithm.basic_client import SGDSerialClientTrainer
    from fedlab.contrib.algorithm.fednova import FedNovaSerialClientTrainer, FedNovaServerHandler
    from fedlab.contrib.algorithm.scaffold import ScaffoldSerialClientTrainer, ScaffoldServerHandler
    from fedlab.utils import Aggregators
_root.setLevel(_level)
_root.handlers[:] = _handlers

__all__ = [
    "QUIET",
    "Aggregators",
    "FedNovaSerialClientTrainer",
    "FedNovaServerHandler",
    "SGDSerialClientTrainer",
    "ScaffoldSerialClientTrainer",
    "ScaffoldServerHandler",
]
