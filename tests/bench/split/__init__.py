"""Measures split training beside federated averaging: `python -m tests.bench.split`."""
