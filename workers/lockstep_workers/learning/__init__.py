"""Federated learning proper: no pods, no HTTP, no wall clock."""
