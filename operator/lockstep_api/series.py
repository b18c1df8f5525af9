"""The Prometheus series that one part exports and another one queries; docs/metrics.md lists all.

A counter's name here is without `_total`, as the client library takes it: `total` adds it.
"""

JOB = "job"
CLIENT = "client"
DIRECTION = "direction"
SOURCE = "source"

LINK_MBITS = "lockstep_link_mbits"
"""Counter, Mbit by job, client and direction: what the emulated link could have carried."""
UPLINK_MBPS = "lockstep_uplink_mbits_per_second"
"""Gauge, Mbit/s by job and client: the bandwidth of the last upload."""
UPLOAD_BYTES = "lockstep_upload_bytes"
"""Counter, bytes by job and client."""
UPLOAD_SECONDS = "lockstep_upload_seconds"
"""Counter, s by job and client."""
CPU_SECONDS = "lockstep_cpu_seconds"
"""Counter, core-seconds of local training by job and client."""
STEPS = "lockstep_steps"
"""Counter, local SGD steps by job and client."""


def total(counter: str) -> str:
    """The name under which Prometheus has a counter."""
    return f"{counter}_total"
