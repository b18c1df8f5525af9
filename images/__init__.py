"""Builds Lockstep's container images: `make images` runs `images/build.py`."""
