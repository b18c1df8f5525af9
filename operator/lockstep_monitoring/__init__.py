"""Dashboards, recording rules and alerts as code, and the files that are made of them.

Called by `make monitoring`, whose files the chart ships; nothing of it runs in a cluster.
Invariant: a query names no series that `lockstep_api.series` does not have.
"""
