"""How large a job's requests to its planner can be, from its numbers of clients and labels.

Used by the operator, which reads no more of them. Invariant: whatever the models of `wire` allow
fits in.
"""

from lockstep_api.mistrust import MOST_TAKEN_BACK
from lockstep_api.tiers import MOST_CLUSTERS, MOST_CUTS, MOST_EDGES
from lockstep_api.wire_types import MOST_ACCOUNT, MOST_NOTICES, MOST_TEXT


def most_bytes(clients: int, *, labels: int = 0, edges: int = MOST_EDGES) -> int:
    """Size of a job's largest request to the planner, in bytes.

    A client has its registration, its report and its name among the lost ones or those left out,
    with what of it was not believed: less than 2 KiB, and 12 bytes for each of `labels` counts
    where it tells its histogram. A character takes 6 bytes at most. A cluster, an edge, a cut have
    less than 1 KiB each; no job has more clusters than clients.
    """
    clusters = min(clients, MOST_CLUSTERS)
    tiers = (clusters + min(edges, MOST_EDGES) + MOST_CUTS) << 10 if labels else 0
    texts = 6 * (MOST_TEXT * (MOST_NOTICES + MOST_TAKEN_BACK + 2) + MOST_ACCOUNT)
    return clients * (2048 + 12 * labels) + tiers + texts + (64 << 10)


def most_values(clients: int, *, labels: int = 0) -> int:
    """Commas and brackets in such a request; sentences may be of commas only."""
    tiers = 16 * (MOST_CLUSTERS + MOST_EDGES + MOST_CUTS) if labels else 0
    texts = MOST_TEXT * (MOST_NOTICES + MOST_TAKEN_BACK + 2) + MOST_ACCOUNT
    return clients * (160 + labels) + tiers + texts + 1024
