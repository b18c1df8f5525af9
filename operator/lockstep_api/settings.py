"""The settings of a job's workers: one JSON file in a ConfigMap, derived from the spec.

The operator builds it (`job_settings`), every worker reads it. A worker learns what it is from
its pod: role, client name and namespace come through environment variables.
"""

from pydantic import Field

from lockstep_api.base import WireModel
from lockstep_api.energy import EnergyModel, PowerPoint
from lockstep_api.names import HTTP_PORT, client_name, edge_host
from lockstep_api.quantity import parse_quantity
from lockstep_api.spec import (
    CheckpointSpec,
    Clustering,
    Data,
    DeviceGroup,
    Distillation,
    FederatedJobSpec,
    LinkSpec,
    Mode,
    Model,
    Participation,
    Privacy,
    Split,
    StrategySpec,
    TrainingSpec,
)

DEFAULT_KAPPA = 1e-28


class LinkSettings(WireModel):
    """One direction of a device's connection."""

    mbps: float | None = None
    """Constant bandwidth in Mbit/s."""
    trace: str | None = None
    """ConfigMap with bandwidth traces."""
    latency_s: float = 0.0
    """Delay before each transfer in seconds."""


class GroupSettings(WireModel):
    """A device group as the workers need it."""

    name: str
    """Name of the group."""
    replicas: int
    """Number of devices."""
    min_ghz: float
    """Lowest frequency in GHz."""
    max_ghz: float
    """Highest frequency in GHz."""
    cpu_at_max: float
    """CPU limit at max_ghz, in cores."""
    kappa: float
    """κ of the energy model in J per cycle per Hz² (unused when there is a table)."""
    power_table: tuple[tuple[float, float], ...] = ()
    """Measured (GHz, W) points."""
    idle_watts: float = 0.0
    """Power without work in W."""
    transmit_watts: float = 0.0
    """Power of the radio during uploads in W."""
    data_share: float = 1.0
    """Relative amount of training examples of each device."""
    uplink: LinkSettings | None = None
    """How updates travel; empty: as fast as they do."""
    downlink: LinkSettings | None = None
    """How models travel; empty: as fast as they do."""

    def energy_model(self) -> EnergyModel:
        """The group's energy model."""
        table = tuple(PowerPoint(ghz, watts) for ghz, watts in self.power_table)
        return EnergyModel(self.kappa, table, self.idle_watts, self.transmit_watts)


class JobSettings(WireModel):
    """Everything that the workers of a job share."""

    namespace: str
    """Namespace of the job."""
    job: str
    """Name of the job."""
    uid: str
    """UID of the job: tells two jobs of one name apart."""
    created_at: float
    """When the job was created, in Unix seconds: the emulated links begin then."""
    mode: Mode
    """How the tiers work together."""
    model: Model
    """The model that is trained."""
    data: Data
    """The data set and its partition."""
    training: TrainingSpec
    """Local training; rounds and target follow the plan."""
    strategy: StrategySpec
    """The federated optimisation method."""
    participation: Participation = Field(default_factory=Participation)
    """When round 1 may begin without everyone; later rounds follow the plan."""
    privacy: Privacy | None = None
    """Differential privacy for clients; empty: none."""
    checkpoint: CheckpointSpec = Field(default_factory=CheckpointSpec)
    """How often to write checkpoints and how many to keep."""
    per_device: bool = True
    """Whether each device tells Prometheus all of its series."""
    clustering: Clustering | None = None
    """How clients are grouped, in a mode with edges."""
    split: Split | None = None
    """How the model's halves are trained, in mode split."""
    distillation: Distillation | None = None
    """How edges and cloud teach each other, in mode split; empty: not at all."""
    groups: tuple[GroupSettings, ...]
    """The device groups, in the order of the spec."""
    edge_urls: dict[str, str] = Field(default_factory=dict)
    """Base URL of each edge; https:// where the job's servers speak TLS."""
    cloud_url: str
    """Base URL of the cloud pod; likewise."""
    planner_url: str
    """Base URL of the planner; https:// where it speaks TLS."""
    cpu_watts: float = Field(default=10.0, gt=0)
    """Watts of one busy core, for energy of source `cpu`."""
    identity: bool = False
    """Whether devices and edges prove to the cloud pod which pods they are, by tokens."""

    def clients(self) -> list[str]:
        """All client names; the position is the client's index in the partition."""
        return [client_name(g.name, i) for g in self.groups for i in range(g.replicas)]

    def group_of(self, client: str) -> GroupSettings:
        """The group of a client.

        Raises:
            KeyError: no such client in this job.
        """
        for group in self.groups:
            if any(client == client_name(group.name, i) for i in range(group.replicas)):
                return group
        raise KeyError(client)

    def clip_norm(self) -> float | None:
        """The longest change that an update may make; None: the job does not hide its clients."""
        return None if self.privacy is None else self.privacy.clip_norm

    def tells_labels(self) -> bool:
        """Whether devices tell how many examples of each label they hold, with or without noise."""
        if self.clustering is None:
            return self.privacy is None
        return self.clustering.tells_labels(private=self.privacy is not None)

    def data_shares(self) -> list[float]:
        """The relative amount of examples of each client, in the order of `clients()`."""
        return [g.data_share for g in self.groups for _ in range(g.replicas)]


def edge_names(spec: FederatedJobSpec) -> list[str]:
    """All edges of a job."""
    return [client_name(g.name, i) for g in spec.edge_groups() for i in range(g.replicas)]


def edge_urls(
    spec: FederatedJobSpec, *, namespace: str, job: str, scheme: str = "http"
) -> dict[str, str]:
    """Where the edges of a job are."""
    hosts = {edge: edge_host(namespace, job, edge=edge) for edge in edge_names(spec)}
    return {edge: f"{scheme}://{host}:{HTTP_PORT}" for edge, host in hosts.items()}


def _link_settings(link: LinkSpec | None) -> LinkSettings | None:
    if link is None:
        return None
    delay_s = (link.latency_ms or 0.0) / 1000
    return LinkSettings(mbps=link.mbps, trace=link.trace, latency_s=delay_s)


def _group_settings(group: DeviceGroup) -> GroupSettings:
    table = group.energy.table or []
    return GroupSettings(
        name=group.name,
        replicas=group.replicas,
        min_ghz=group.frequency.min_ghz,
        max_ghz=group.frequency.max_ghz,
        cpu_at_max=parse_quantity(group.cpu_at_max),
        kappa=group.energy.kappa or DEFAULT_KAPPA,
        power_table=tuple((point.ghz, point.watts) for point in table),
        idle_watts=group.energy.idle_watts,
        transmit_watts=group.energy.transmit_watts,
        data_share=group.data_share,
        uplink=_link_settings(group.uplink),
        downlink=_link_settings(group.downlink),
    )


def energy_model_of(group: DeviceGroup) -> EnergyModel:
    """The energy model of a group's devices."""
    return _group_settings(group).energy_model()


def job_settings(
    spec: FederatedJobSpec,
    *,
    namespace: str,
    job: str,
    uid: str,
    created_at: float,
    cloud_url: str,
    planner_url: str,
    cpu_watts: float,
    identity: bool = False,
) -> JobSettings:
    """The workers' settings for a job; what is empty in the spec has its default here."""
    tiered, splits = spec.mode is not Mode.FEDERATED, spec.mode is Mode.SPLIT
    distils = spec.distillation is not None and spec.distillation.enabled
    return JobSettings(
        namespace=namespace,
        job=job,
        uid=uid,
        created_at=created_at,
        mode=spec.mode,
        model=spec.model,
        data=spec.data,
        training=spec.training,
        strategy=spec.strategy,
        participation=spec.participation,
        privacy=spec.privacy,
        checkpoint=spec.checkpoint,
        per_device=spec.telemetry.tells_each(spec.clients()),
        clustering=(spec.clustering or Clustering()) if tiered else None,
        split=(spec.split or Split()) if splits else None,
        distillation=spec.distillation if distils else None,
        edge_urls=edge_urls(
            spec, namespace=namespace, job=job, scheme=cloud_url.partition(":")[0]
        ),  # all servers of a job speak TLS, or none
        groups=tuple(_group_settings(group) for group in spec.devices),
        cloud_url=cloud_url,
        planner_url=planner_url,
        cpu_watts=cpu_watts,
        identity=identity,
    )
