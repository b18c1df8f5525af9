"""What the chart's Prometheus says that it scrapes; `look` asks it through the apiserver."""

from lockstep_cli.cluster import SERVICES, Cluster, Json, Request, path_of
from lockstep_cli.doctor.finding import Scraping

_SERVICES = "app.kubernetes.io/name=lockstep,app.kubernetes.io/component=prometheus"
_UP = "up"


def scraped(cluster: Cluster) -> Scraping | None:
    """Of the first that is found; None: there is none.

    Raises:
        CliError: it does not answer.
    """
    services = cluster.list(SERVICES, labels=_SERVICES).items
    if not services:
        return None
    meta = services[0]["metadata"]
    port = services[0]["spec"]["ports"][0]["port"]
    path = path_of(SERVICES, meta["namespace"], name=f"{meta['name']}:{port}", part="proxy")
    answer = cluster.call(Request("GET", f"{path}/api/v1/query", {"query": _UP}))
    return scraping_of(answer["data"]["result"], where=f"{meta['namespace']}/{meta['name']}")


def scraping_of(samples: list[Json], *, where: str) -> Scraping:
    """What the samples of `up` say."""
    down = [one["metric"] for one in samples if one["value"][1] == "0"]
    jobs = {(one["metric"].get("namespace", ""), one["metric"].get("job", "")) for one in samples}
    return Scraping(
        where=where,
        up=len(samples) - len(down),
        down=tuple(sorted(f"{one.get('namespace')}/{one.get('pod')}" for one in down)),
        jobs=frozenset(jobs),
    )
