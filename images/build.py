"""Starts the image builder as a script, from any folder; owns nothing else."""

import runpy
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parent.parent)
runpy.run_module("images", run_name="__main__", alter_sys=True)
