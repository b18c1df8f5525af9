"""Which series a dashboard means: selectors with its variables, and groups where devices are mute.

Called by the modules of dashboards. Invariant: what is asked of a job is asked of the one that the
variables `namespace` and `job` name, so that two jobs of one name never mix in a panel.
"""

from lockstep_api import series
from lockstep_api.series import Series
from lockstep_monitoring.queries import WINDOW, picked

IN_TIER = 'tier=~"$tier"'
MODELLED = 'source="model"'
MEAN = 'stat="mean"'


def of_job(what: Series | str, *matchers: str) -> str:
    """A series of the job that is chosen."""
    return picked(_name(what), 'namespace="$namespace"', 'job="$job"', *matchers)


def of_finished_rounds(what: Series) -> str:
    """The same, from the end of round 1 on: until then a gauge says 0, and means nothing."""
    return f"({of_job(what)} and on (namespace, job) {of_job(series.ROUND)} > 0)"


def of_devices(what: Series | str, *matchers: str) -> str:
    """A series of the devices that are chosen."""
    return of_job(what, 'client=~"$device"', *matchers)


def of_fleet(what: Series | str, *matchers: str) -> str:
    """A series of all jobs in the namespaces that are chosen."""
    return picked(_name(what), 'namespace=~"$namespace"', *matchers)


def of_release(what: Series | str, *matchers: str) -> str:
    """A series of the operators in the namespaces that are chosen."""
    return picked(_name(what), 'namespace=~"$release"', *matchers)


def a_second(selector: str) -> str:
    """How much a counter grows in a second."""
    return f"rate({selector}[{WINDOW}])"


def grown(selector: str) -> str:
    """How often something happened within one step of the panel, that should happen never."""
    return f"increase({selector}[$__rate_interval])"


def or_groups(devices: str, *, told: Series, groups: str) -> str:
    """What devices tell (`told` is the series), or that of their groups where they tell nothing.

    A group has its name in the label `client`, so that one legend serves both.
    """
    named = f'label_replace({groups}, "client", "$1", "group", "(.*)")'
    return f"{devices} or ({named} unless on (namespace, job) {of_job(told)})"


def _name(what: Series | str) -> str:
    return what if isinstance(what, str) else what.queried
