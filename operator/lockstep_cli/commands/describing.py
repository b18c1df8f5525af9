"""`lockstep describe`: a job as a tree of what it is made of, what is said of it, what happened.

Invariant: what is not well stands out, with the words of who said so; long lists end with how many
more there are.
"""

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime

from rich.text import Text
from rich.tree import Tree

from lockstep_api.names import Role
from lockstep_cli.cluster import Cluster
from lockstep_cli.commands.events import COLUMNS, rows
from lockstep_cli.devices import Device, devices_of
from lockstep_cli.events import Wanted, events_of
from lockstep_cli.facts import BAD, STYLES, Job, accuracy, amount, duration, joules, since
from lockstep_cli.jobs import find_job, pods_of
from lockstep_cli.measured import measure
from lockstep_cli.options import Job as JobName
from lockstep_cli.options import PrometheusNamespace, on_cluster
from lockstep_cli.pods import Pod
from lockstep_cli.shown import (
    Json,
    Output,
    OutputOption,
    console,
    out,
    say,
    show_table,
    write_objects,
)

_MOST_DEVICES = 12
"""Of a branch."""
_MOST_EVENTS = 10


@on_cluster
def describe(
    cluster: Cluster,
    *,
    job: JobName,
    output: OutputOption = None,
    prometheus_namespace: PrometheusNamespace = None,
) -> None:
    """A job as a tree, what its conditions say, and its newest events."""
    found = find_job(cluster, job)
    if output in (Output.JSON, Output.YAML, Output.NAME):
        write_objects([found.body], output, single=True)
        return
    pods = pods_of(cluster, found)
    measured = measure(cluster, found, said=prometheus_namespace)
    on = console()
    for line in heads(found, datetime.now(UTC)):
        on.print(line, soft_wrap=True)
    out()
    on.print(
        tree(found, pods, devices=devices_of(found, pods, figures=measured.devices)), soft_wrap=True
    )
    _conditions(found)
    _events(events_of(cluster, Wanted(found.name)))
    if measured.note:
        say(f"note: {measured.note}", style="yellow")


def heads(job: Job, now: datetime) -> list[Text]:
    """What a person wants to know first."""
    spec, status = job.spec, job.status
    model, data = spec.get("model") or {}, spec.get("data") or {}
    told = {
        "Name": f"{job.name} (namespace {job.namespace}, {since(job.age, now)} old)",
        "Learns": f"{model.get('name') or model.get('entrypoint') or 'a model of its own'}"
        f" on {data.get('name') or 'data of its own'},"
        f" strategy {(spec.get('strategy') or {}).get('name')}, mode {spec.get('mode')},"
        f" frequencies by {(spec.get('allocation') or {}).get('policy')}",
        "Round": f"{job.round} of {job.rounds}, {status.get('clients') or 'no'} clients,"
        f" {duration(status.get('elapsedSeconds'))} so far, {duration(job.left_s())} left",
        "Accuracy": f"{accuracy(status.get('accuracy'))}, loss {amount(status.get('loss'), '')}",
        "Energy": joules(status),
        **_privacy(job),
        **_taken_back(job),
    }
    phase = Text.assemble(("Phase      ", "bold"), (job.phase, STYLES.get(job.phase, "")))
    if trouble := job.trouble():
        phase.append(f"  {trouble}", "yellow")
    name, *others = (Text.assemble((f"{key:<11}", "bold"), value) for key, value in told.items())
    return [name, phase, *others]


def _taken_back(job: Job) -> dict[str, str]:
    """That the last round was not played as it was at first, and why."""
    last = job.status.get("lastRound") or {}
    whys = last.get("takenBack")
    return {"Taken back": f"round {last['round']}: {'; '.join(whys)}"} if whys else {}


def _privacy(job: Job) -> dict[str, str]:
    """What a job that hides its clients has come to."""
    told = job.status.get("privacy")
    if not told:
        return {}
    budget = (job.spec.get("privacy") or {}).get("epsilonBudget")
    most = "" if budget is None else f" of at most {budget:g}"
    labels = told.get("labelEpsilon")
    beside = "" if labels is None else f"; of an example's label {labels:.3g}"
    models = "1 model" if told["rounds"] == 1 else f"{told['rounds']} models"
    return {
        "Privacy": f"ε {told['epsilon']:.4g}{most} of a client (δ {told['delta']:.2g}),"
        f" in {models}{beside}"
    }


def tree(job: Job, pods: Iterable[Json], *, devices: Sequence[Device]) -> Tree:
    """Cloud, then edges with their clusters, or groups, with their devices."""
    known = [Pod(body) for body in pods]
    root = Tree(Text(job.name, "bold"), guide_style="dim")
    for pod in known:
        if pod.role in (Role.CLOUD, Role.TRAINER):
            root.add(_pod(pod, pod.role))
    if edges := job.status.get("edges"):
        _edges(root, job, pods=known, devices=devices, edges=edges)
    else:
        for group in dict.fromkeys(device.group for device in devices):
            members = [device for device in devices if device.group == group]
            _devices(root.add(Text(f"group {group}", "cyan")), members)
    return root


def _edges(
    root: Tree, job: Job, *, pods: Sequence[Pod], devices: Sequence[Device], edges: Sequence[Json]
) -> None:
    by_name = {pod.short: pod for pod in pods if pod.role == Role.EDGE}
    clusters = job.status.get("clusters") or ()
    placed: set[str] = set()
    for edge in edges:
        pod = by_name.get(edge["name"])
        lost = "" if edge.get("connected") else "  not connected"
        line = _pod(pod, "edge") if pod else Text(f"edge {edge['name']}")
        branch = root.add(line.append(lost, "red"))
        for cluster in (one for one in clusters if one["edge"] == edge["name"]):
            members = [one for one in devices if one.pod and one.pod.cluster == cluster["name"]]
            placed |= {one.name for one in members}
            _devices(branch.add(_cluster(cluster)), members)
    rest = [one for one in devices if one.name not in placed]
    if rest:
        _devices(root.add(Text("in no cluster now")), rest)


def _cluster(cluster: Json) -> Text:
    line = Text(f"cluster {cluster['name']}", "cyan")
    line.append(f"  {cluster['clients']} devices, {cluster['examples']} examples", "default")
    for name, unit in (("divergence", "nats from all labels"), ("costSeconds", "s expected")):
        if (value := cluster.get(name)) is not None:
            line.append(f", {value:.3g} {unit}", "default")
    return line.append(f"  {cluster.get('why') or ''}", "dim")


def _devices(branch: Tree, devices: Sequence[Device]) -> None:
    """Those that are not well come first."""
    ordered = sorted(devices, key=lambda device: device.well)
    for device in ordered[:_MOST_DEVICES]:
        branch.add(_device(device))
    if (left := len(ordered) - _MOST_DEVICES) > 0:
        branch.add(Text(f"and {left} more: lockstep devices", "dim"))


def _device(device: Device) -> Text:
    line = Text(f"{device.name}  ")
    line.append(device.state, "green" if device.well else "red")
    if device.ghz is not None:
        line.append(f"  {device.ghz:.2f} GHz")
    if (milli := device.plan.get("cpuMilli")) is not None:
        line.append(f" = {milli}m")
    if device.figures.mbps is not None:
        line.append(f"  {device.figures.mbps:.1f} Mbit/s")
    if device.why_not:
        line.append(f"  limit not in force: {device.why_not}", "red")
    if device.remark:
        line.append(f"  {device.remark}", "yellow")
    return line


def _pod(pod: Pod, what: str) -> Text:
    short = "" if pod.short == what else f" {pod.short}"
    line = Text(f"{what}{short}  ")
    line.append(pod.state, "green" if pod.state == "Running" else "red")
    line.append(f"  {pod.name} on {pod.node or 'no node yet'}", "dim")
    if pod.restarts:
        line.append(f"  {pod.restarts} restarts", "yellow")
    return line


def _conditions(job: Job) -> None:
    said = job.conditions()
    if not said:
        return
    out()
    now = datetime.now(UTC)
    cells = (
        [
            Text(one["type"], "red" if BAD.get(one["type"]) == one["status"] else ""),
            one["status"],
            one["reason"],
            since(one.get("lastTransitionTime"), now),
            one["message"],
        ]
        for one in said
    )
    show_table(("condition", "status", "reason", "since", "message"), cells, fold=True)


def _events(said: Sequence[Json]) -> None:
    if not said:
        return
    out()
    show_table(COLUMNS, rows(said[-_MOST_EVENTS:], datetime.now(UTC)), fold=True)
    if (more := len(said) - _MOST_EVENTS) > 0:
        say(f"{more} older events: lockstep events")
