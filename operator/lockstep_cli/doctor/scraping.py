"""What the charts' Prometheuses say that they scrape; `look` asks them."""

from collections.abc import Iterable, Mapping
from dataclasses import replace

from lockstep_cli.cluster import Cluster
from lockstep_cli.doctor.finding import Scraping
from lockstep_cli.prometheus import Prometheus, Sample, installed

_UP = "up"


def scraped(cluster: Cluster) -> Scraping | None:
    """Of all that there are together; None: there is none.

    Raises:
        CliError: one does not answer.
    """
    there = [Prometheus(cluster, namespace) for namespace in installed(cluster)]
    samples = [sample for one in there for sample in one.instant(_UP)]
    if not there:
        return None
    found = scraping_of(samples, where=[one.namespace for one in there])
    return replace(found, note="; ".join(one.note for one in there if one.note))


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
