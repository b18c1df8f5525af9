"""Which series a dashboard means: selectors with its variables, and groups where devices are mute.

Called by the modules of dashboards. Invariant: what is asked of a job is asked of the one that the
variables `namespace` and `job` name, so that two jobs of one name never mix in a panel.
"""

from lockstep_monitoring.queries import WINDOW, picked

IN_TIER = 'tier=~"$tier"'
MODELLED = 'source="model"'
MEAN = 'stat="mean"'


def of_job(series: str, *matchers: str) -> str:
    """A series of the job that is chosen."""
    return picked(series, 'namespace="$namespace"', 'job="$job"', *matchers)


def of_devices(series: str, *matchers: str) -> str:
    """A series of the devices that are chosen."""
    return of_job(series, 'client=~"$device"', *matchers)


def of_fleet(series: str, *matchers: str) -> str:
    """A series of all jobs in the namespaces that are chosen."""
    return picked(series, 'namespace=~"$namespace"', *matchers)


def of_release(series: str, *matchers: str) -> str:
    """A series of the operators in the namespaces that are chosen."""
    return picked(series, 'namespace=~"$release"', *matchers)


def a_second(selector: str) -> str:
    """How much a counter grows in a second."""
    return f"rate({selector}[{WINDOW}])"


def grown(selector: str) -> str:
    """How often something happened within one step of the panel, that should happen never."""
    return f"increase({selector}[$__rate_interval])"


def or_groups(devices: str, *, told: str, groups: str) -> str:
    """What devices tell (`told` is the series), or that of their groups where they tell nothing.

    A group has its name in the label `client`, so that one legend serves both.
    """
    named = f'label_replace({groups}, "client", "$1", "group", "(.*)")'
    return f"{devices} or ({named} unless on (namespace, job) {of_job(told)})"
