"""Measures the strategies beside each other: `python -m tests.bench.strategies` (`__main__`)."""
