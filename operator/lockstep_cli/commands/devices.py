"""`lockstep devices`: what each device of a job was asked for, is and did."""

from dataclasses import asdict

from lockstep_cli.cluster import Cluster
from lockstep_cli.devices import COLUMNS, WIDE, Device, devices_of, more, row, shown_columns
from lockstep_cli.errors import CliError, Exit
from lockstep_cli.jobs import find_job, pods_of
from lockstep_cli.measured import measure
from lockstep_cli.options import Job, PrometheusNamespace, on_cluster
from lockstep_cli.shown import (
    Json,
    Output,
    OutputOption,
    out,
    say,
    show_table,
    write_json,
    write_yaml,
)


@on_cluster
def devices(
    cluster: Cluster,
    *,
    job: Job,
    output: OutputOption = None,
    prometheus_namespace: PrometheusNamespace = None,
) -> None:
    """The devices of a job: frequency, limit, steps, bandwidth, energy, cluster and edge."""
    found = find_job(cluster, job)
    measured = measure(cluster, found, said=prometheus_namespace)
    all_of_them = devices_of(found, pods_of(cluster, found), figures=measured.devices)
    match output:
        case Output.JSON:
            write_json([_told(device) for device in all_of_them])
        case Output.YAML:
            write_yaml([_told(device) for device in all_of_them])
        case Output.NAME:
            for device in all_of_them:
                out(device.name)
        case _:
            _print(all_of_them, wide=output is Output.WIDE)
    if measured.note:
        say(f"note: {measured.note}", style="yellow")


def _print(found: list[Device], *, wide: bool) -> None:
    if not found:
        raise CliError("the job has no devices", Exit.NOT_FOUND)
    kept = shown_columns(found, COLUMNS)
    columns = [*(COLUMNS[place] for place in kept), *(WIDE if wide else ())]
    rows = (
        [*(row(device)[place] for place in kept), *(more(device) if wide else ())]
        for device in found
    )
    show_table(columns, rows)


def _told(device: Device) -> Json:
    """A device for programs."""
    pod = device.pod
    placed = None if pod is None else {"name": pod.name, "node": pod.node, "restarts": pod.restarts}
    return {
        "name": device.name,
        "state": device.state,
        "plan": device.plan or None,
        "pod": placed,
        "cluster": (pod.cluster if pod else None) or None,
        "edge": (pod.edge if pod else None) or None,
        "sitsOut": device.sits_out,
        "kept": device.kept,
        "measured": asdict(device.figures),
    }
