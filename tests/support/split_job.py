"""A whole job in mode split in this process: the pure parts alone, without pods or bodies."""

from pathlib import Path

import torch

from lockstep_api.orders import ClusterOrder
from lockstep_api.settings import JobSettings
from lockstep_api.wire import RoundPlan
from lockstep_workers.data import Dataset, load_dataset
from lockstep_workers.learning.split_server import SplitServer
from lockstep_workers.learning.strategy import ServerState
from lockstep_workers.learning.trial import load_and_try
from tests.support.split_clusters import members_of, play_cluster


def play(job: JobSettings, datasets: Path, *, plans: list[RoundPlan]) -> ServerState:
    """The state after the rounds of these plans, whose clusters are played one after another."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    server, dataset = (
        SplitServer(job, load_and_try(job, datasets)),
        load_dataset(job.data, datasets),
    )
    for plan in plans:
        assert plan.cut is not None
        server.cut_at(plan.cut)
        server.begin(plan.round, [one.client for one in plan.participants])
        for order in orders_of(job, plan, server=server, dataset=dataset):
            done, pool = play_cluster(job, order, server.state.vectors["model"], dataset=dataset)
            server.add_halves(order.cluster, done, pool=pool)
        server.aggregate()
    torch.set_num_threads(threads)
    return server.state


def orders_of(
    job: JobSettings, plan: RoundPlan, *, server: SplitServer, dataset: Dataset
) -> list[ClusterOrder]:
    """What the edges of a plan's clusters are told, when all examples may go on to the cloud."""
    plans = {one.client: one for one in plan.participants}
    made = []
    for cluster in plan.clusters:
        members = members_of(job, [plans[client] for client in cluster.clients], dataset=dataset)
        samples = sum(one.plan.steps * (one.plan.batch_size or 1) for one in members)
        order = ClusterOrder(
            round=plan.round, cluster=cluster.cluster, turn=1, members=members, cut=plan.cut,
            cut_shape=list(server.cut.shape), classes=dataset.classes, pool_samples=samples,
        )  # fmt: skip
        made.append(order)
    return made
