"""The lower half of the dashboard Job: rounds, clusters and edges, faults, pods."""

from lockstep_api import series
from lockstep_monitoring.dashboards import panels
from lockstep_monitoring.dashboards.frame import Row
from lockstep_monitoring.dashboards.kinds import Query
from lockstep_monitoring.dashboards.panels import FROM_ZERO, GREEN, RED, Look, Told
from lockstep_monitoring.dashboards.scope import (
    IN_TIER,
    a_second,
    grown,
    of_finished_rounds,
    of_job,
)

_BUSY = 'part!="throttled"'


_ROUND_NUMBER = Query(f"max({of_job(series.ROUND)})", "round")
_ROUNDS: Row = (
    "Rounds",
    [
        panels.timeline(
            Told(
                "Round timeline",
                "A block for each round, as long as it took, and whether the planner planned it. "
                "Rounds shorter than a pixel or a scrape merge.",
                "a block much longer than its neighbours waits for a straggler; “last plan again” "
                "means that the planner did not answer.",
                "none",
            ),
            Query(f"max({of_job(series.ROUND)}) + 1", "round"),
            look=Look(width=24, height=4),
        ),
        panels.timeline(
            Told(
                "Planned by the planner",
                "Whether the current round has a plan of its own.",
                "“last plan again”: the cloud pod could not reach the planner; limits stay as they "
                "were.",
                "none",
            ),
            Query(
                f"min({of_job(series.ROUND_PLANNED)} and on (namespace, job) "
                f"{of_job(series.JOB_START_SECONDS)})",
                "plan",
            ),
            look=Look(
                width=24,
                height=3,
                thresholds=[(None, RED), (1, GREEN)],
                texts={"0": ("last plan again", RED), "1": ("planned", GREEN)},
            ),
        ),
        panels.against(
            Told(
                "A round's seconds, by round",
                "What each round took, and how much of it came after the median device was in.",
                "the straggler's line is near the round's: one device holds all others up.",
                "s",
            ),
            _ROUND_NUMBER,
            Query(f"max({of_finished_rounds(series.LAST_ROUND_SECONDS)})", "round took"),
            Query(f"max({of_finished_rounds(series.STRAGGLER_SECONDS)})", "waited for stragglers"),
            x_unit="short",
            look=FROM_ZERO,
        ),
        panels.areas(
            Told(
                "What devices do, in devices",
                "Device-seconds of finished rounds a second: how many devices were, on average, in "
                "each part of a round. “throttled” is time within “compute”.",
                "much “wait”: devices finish early, and burned energy for nothing; much “upload”: "
                "links, not CPUs, make the round.",
                "short",
            ),
            Query(
                f"sum by (part) ({a_second(of_job(series.GROUP_SECONDS, _BUSY))})",
                "{{part}}",
            ),
            look=FROM_ZERO,
        ),
        panels.gauges(
            Told(
                "The slowest ten",
                "When their update was in, in seconds of the last round. Jobs without telemetry "
                "per device show nothing here: see Devices, by group.",
                "the first is far behind the second: its link or CPU is weaker than planned with.",
                "s",
            ),
            Query(f"topk(10, {of_job(series.CLIENT_ARRIVED_SECONDS)})", "{{client}}"),
            look=Look(decimals=1, low=0),
        ),
        panels.lines(
            Told(
                "Devices of each group",
                "Devices of the last finished round: whose update was in, and who was lost.",
                "“lost” above 0: too slow for the deadline, or gone.",
                "short",
            ),
            Query(
                f"sum by (group, state) ({of_job(series.GROUP_CLIENTS)})",
                "{{group}}: {{state}}",
            ),
            look=FROM_ZERO,
        ),
        panels.lines(
            Told(
                "Bytes of a round",
                "All updates of the last round, and one model as it goes out.",
                "it grows without more devices: the strategy sends more vectors than before.",
                "bytes",
            ),
            Query(f"max({of_job(series.LAST_ROUND_UPLOAD_BYTES)})", "updates of a round"),
            Query(f"max({of_job(series.MODEL_BYTES)})", "one model"),
            look=FROM_ZERO,
        ),
        panels.lines(
            Told(
                "Beside the round",
                "What the cloud pod does between two rounds.",
                "seconds that are not small beside a round's: a larger cloud pod, or a "
                "faster volume.",
                "s",
            ),
            Query(f"max({of_job(series.EVALUATE_SECONDS)})", "evaluation"),
            Query(f"max({of_job(series.CHECKPOINT_SECONDS)})", "checkpoint"),
            look=FROM_ZERO,
        ),
    ],
)

_EDGES: Row = (
    "Clusters and edges (modes hierarchical and split)",
    [
        panels.timeline(
            Told(
                "Clusters of each edge",
                "How many clusters each edge runs now.",
                "an edge without any for many rounds: it is lost, or costs more than the others.",
                "short",
            ),
            Query(f"max by (edge) ({of_job(series.EDGE_CLUSTERS)})", "{{edge}}"),
            look=Look(),
        ),
        panels.lines(
            Told(
                "A cluster's seconds, by edge",
                "The last cluster of each edge, from its order to its result, and what the plan "
                "expected of each cluster.",
                "one edge far above the others: its node or its devices' links are slow.",
                "s",
            ),
            Query(f"max by (edge) ({of_job(series.EDGE_CLUSTER_SECONDS)})", "{{edge}}: took"),
            Query(
                f"max by (cluster) ({of_job(series.CLUSTER_COST_SECONDS)})",
                "{{cluster}}: expected",
            ),
            look=FROM_ZERO,
        ),
        panels.lines(
            Told(
                "Labels of each cluster",
                "KL divergence of a cluster's labels from those of the whole round.",
                "one cluster far above 0: its edge learns another task than the rest.",
                "suffix: nats",
            ),
            Query(f"max by (cluster) ({of_job(series.CLUSTER_DIVERGENCE)})", "{{cluster}}"),
            look=FROM_ZERO,
        ),
        panels.lines(
            Told(
                "Edges connected",
                "Edges with an open session, and clusters that were moved from lost ones.",
                "moves go on: an edge comes and goes.",
                "short",
            ),
            Query(f"max({of_job(series.EDGES_CONNECTED)})", "edges"),
            Query(f"max({of_job(series.CLUSTERS_MOVED)})", "clusters moved"),
            look=FROM_ZERO,
        ),
        panels.lines(
            Told(
                "A split step",
                "Median and slowest twentieth of the steps of mode split.",
                "p95 far above the median: one device of the cluster is late at each step.",
                "s",
            ),
            *(
                Query(
                    f"histogram_quantile({share}, sum by (le) "
                    f"({a_second(of_job(series.EDGE_STEP_SECONDS.bucket))}))",
                    f"p{share * 100:.0f}",
                )
                for share in (0.5, 0.95)
            ),
            look=FROM_ZERO,
        ),
        panels.lines(
            Told(
                "Where edges' time goes",
                "Back half and waiting for devices, of a second (mode split).",
                "all is waiting: fewer devices a cluster, or a cut nearer to the input.",
                "percentunit",
            ),
            Query(
                f"sum by (edge) ({a_second(of_job(series.EDGE_BACK_SECONDS))})",
                "{{edge}}: back half",
            ),
            Query(
                f"sum by (edge) ({a_second(of_job(series.EDGE_WAITING_SECONDS))})",
                "{{edge}}: waiting",
            ),
            look=FROM_ZERO,
        ),
    ],
)

_FAULTS: Row = (
    "Faults",
    [
        panels.columns(
            Told(
                "Updates refused",
                "At the cloud pod and at edges, by reason.",
                "any: non_finite is training that diverges; wrong_round and duplicate are late "
                "devices; no_session and unknown_client are strangers; too_slow is a link.",
                "short",
            ),
            Query(
                f"sum by (reason) ({grown(of_job(series.UPDATES_REFUSED))})",
                "{{reason}}",
            ),
            Query(
                f"sum by (edge, reason) ({grown(of_job(series.EDGE_UPDATES_REFUSED))})",
                "{{edge}}: {{reason}}",
            ),
            look=FROM_ZERO,
        ),
        panels.columns(
            Told(
                "Devices that failed a round",
                "Without an update, with a session that ended, with an error of the user's code.",
                "“session ended” every round: a device flaps; “code failed”: see the device's log.",
                "short",
            ),
            Query(f"sum({grown(of_job(series.CLIENTS_LOST))})", "no update"),
            Query(f"sum({grown(of_job(series.SESSIONS_ENDED))})", "session ended"),
            Query(f"sum({grown(of_job(series.CLIENT_FAILURES))})", "code failed"),
            look=FROM_ZERO,
        ),
        panels.columns(
            Told(
                "Rounds that went wrong",
                "Closed, or repeated, without enough updates; done again after a new cloud pod.",
                "any: the quorum is too high for the devices that are there, or the cloud "
                "pod dies.",
                "short",
            ),
            Query(f"sum({grown(of_job(series.ROUNDS_WITHOUT_QUORUM))})", "no quorum"),
            Query(f"max({of_job(series.ROUNDS_REPEATED)})", "done again, in all"),
            look=FROM_ZERO,
        ),
    ],
)

_CHECKPOINTS: Row = (
    "Checkpoints and pods",
    [
        panels.lines(
            Told(
                "Age of the newest checkpoint",
                "Time since the job's state was last written to its volume.",
                "it grows past several rounds: a cloud pod that dies now loses that much.",
                "s",
            ),
            Query(f"max(time() - {of_job(series.CHECKPOINT_WRITTEN_SECONDS)})", "age"),
            look=FROM_ZERO,
        ),
        panels.lines(
            Told(
                "Rounds and checkpoints",
                "The newest finished round, the round of the newest checkpoint, and failures.",
                "the two part, or failures grow: the volume is full or gone.",
                "short",
            ),
            Query(f"max({of_job(series.ROUND)})", "round"),
            Query(f"max({of_job(series.CHECKPOINT_ROUND)})", "checkpoint"),
            Query(f"max({of_job(series.CHECKPOINT_FAILURES)})", "failures"),
            Query(f"max({of_job(series.RESUMES)})", "went on from one"),
            look=FROM_ZERO,
        ),
        panels.areas(
            Told(
                "Pods that answer, by tier",
                "Pods of the job whose metrics Prometheus reads.",
                "fewer than the job has: pods are pending, not ready, or out of reach.",
                "short",
            ),
            Query(f"sum by (tier) ({of_job('up', IN_TIER)})", "{{tier}}"),
            look=FROM_ZERO,
        ),
    ],
)


def rows() -> list[Row]:
    """The rows below those of what is learned."""
    return [_ROUNDS, _FAULTS, _CHECKPOINTS, _EDGES]
