"""The device role: trains its own examples under its CPU quota."""
