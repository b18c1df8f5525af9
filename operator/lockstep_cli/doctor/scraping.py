"""What the charts' Prometheuses say that they scrape; `look` asks them through the apiserver."""

from collections.abc import Iterable, Mapping

from lockstep_cli.cluster import Cluster
from lockstep_cli.doctor.finding import Scraping
from lockstep_cli.prometheus import Prometheus, Sample, installed

_UP = "up"


def scraped(cluster: Cluster) -> Scraping | None:
    """Of all that there are together; None: there is none.

    Raises:
        CliError: one does not answer.
    """
    there = installed(cluster)
    samples = [one for place in there for one in Prometheus(cluster, place).instant(_UP)]
    return scraping_of(samples, where=there) if there else None


def scraping_of(samples: Iterable[Sample], *, where: Iterable[str]) -> Scraping:
    """What the samples of `up` say."""
    every = list(samples)
    down = [one.labels for one in every if not one.value]
    return Scraping(
        where=f"Prometheus in {', '.join(where)}",
        up=len(every) - len(down),
        down=tuple(sorted(map(_named, down))),
        jobs=frozenset(
            (one.labels.get("namespace", ""), one.labels.get("job", "")) for one in every
        ),
    )


def _named(labels: Mapping[str, str]) -> str:
    """Operators are known by their address."""
    return f"{labels.get('namespace')}/{labels.get('pod') or labels.get('instance')}"
