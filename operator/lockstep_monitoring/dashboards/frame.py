"""What all dashboards have in common: variables, links to each other, ids, how they refresh.

Called by the modules of dashboards. Invariant: uids and ids of panels depend on nothing but the
dashboard itself, so that links from elsewhere (runbooks, bookmarks) hold from release to release.
"""

from collections.abc import Iterable, Sequence

from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.models import dashboard as models

from lockstep_api import series
from lockstep_monitoring.dashboards.panels import DATASOURCE, Panel
from lockstep_monitoring.queries import picked

TAG = "lockstep"
Variable = dashboard.QueryVariable | dashboard.DatasourceVariable | dashboard.CustomVariable
Row = tuple[str, Sequence[Panel]]


def offered(selected: str, label: str) -> str:
    """What a variable can be: the values of a label of some series."""
    return f"label_values({selected}, {label})"


NAMESPACES = offered(series.ROUNDS.queried, "namespace")
"""Those with jobs."""


def uid(name: str) -> str:
    """Of a dashboard of ours: links and runbooks use it."""
    return f"{TAG}-{name}"


def made(
    name: str, title: str, *, text: str, variables: Iterable[Variable], rows: Iterable[Row]
) -> models.Dashboard:
    """A dashboard of rows, each with its panels from left to right."""
    board = (
        dashboard.Dashboard(title)
        .uid(uid(name))
        .description(text)
        .tags([TAG])
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .time("now-30m", "now")
        .refresh("10s")
        .editable()
        .link(_others())
    )
    for variable in variables:
        board.with_variable(variable)
    for row, panels in rows:
        board.with_row(dashboard.Row(row))
        for panel in panels:
            board.with_panel(panel)
    return _numbered(board.build())


def datasource() -> dashboard.DatasourceVariable:
    """The Prometheus that is asked."""
    return dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")


def choice(name: str, label: str, *, query: str) -> dashboard.QueryVariable:
    """One of what a query finds."""
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(DATASOURCE)
        .query({"qryType": 1, "query": query, "refId": f"Variable-{name}"})
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.NATURAL_ASC)
    )


def choices(name: str, label: str, *, query: str) -> dashboard.QueryVariable:
    """Any of what a query finds; all at first."""
    everything = models.VariableOption(text="All", value="$__all", selected=True)
    return (
        choice(name, label, query=query)
        .multi(True)
        .include_all(True)
        .all_value(".*")
        .current(everything)
    )


def tier() -> dashboard.CustomVariable:
    """Which of the three tiers' pods are shown, where a panel is of pods."""
    everything = models.VariableOption(text="All", value="$__all", selected=True)
    return (
        dashboard.CustomVariable("tier")
        .label("Tier")
        .values("device,edge,cloud")
        .multi(True)
        .include_all(True)
        .all_value("device|edge|cloud")
        .current(everything)
    )


def job_variables() -> list[Variable]:
    """Which job is looked at."""
    of_namespace = picked(series.ROUNDS.queried, 'namespace="$namespace"')
    return [
        datasource(),
        choice("namespace", "Namespace", query=NAMESPACES),
        choice(
            "job", "Job", query=offered(of_namespace, "job")
        ),
    ]  # fmt: skip


def _others() -> dashboard.DashboardLink:
    """All dashboards of ours, with what is chosen here."""
    return (
        dashboard.DashboardLink("Lockstep")
        .type(models.DashboardLinkType.DASHBOARDS)
        .tags([TAG])
        .tooltip("The other dashboards of Lockstep")
        .include_vars(True)
        .keep_time(True)
        .as_dropdown(False)
    )


def _numbered(board: models.Dashboard) -> models.Dashboard:
    for number, panel in enumerate(board.panels or (), 1):
        panel.id_val = number
    return board
