"""What is drawn of a job: plain figures of its rounds, devices, clusters and of itself.

`figures` makes them of what a cloud pod wrote down, the spec and the status; every picture and page
takes them. Invariant: what is not known is None or absent, never a number that stands for nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

Energy = Mapping[str, float]
"""Source → J. Sources are never added up."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Participant:
    """A device in a round: what was asked of it, and what it did."""

    client: str
    group: str
    """Its group of devices."""
    cluster: str | None = None
    edge: str | None = None
    asked_ghz: float | None = None
    cpu_milli: int | None = None
    asked_steps: int | None = None
    applied: bool = True
    """Whether the limit was in force."""
    reason: str | None = None
    """Why it was not."""
    expected_mbps: float | None = None
    """What its plan counted on."""
    expected_finish_s: float | None = None
    had_ghz: float | None = None
    """The frequency that it had; this and all below is None where its update is missing."""
    steps: int | None = None
    download_s: float | None = None
    compute_s: float | None = None
    throttled_s: float | None = None
    upload_s: float | None = None
    waited_s: float | None = None
    """In split training: for its edge, and so for others."""
    arrived_s: float | None = None
    """From the round's start."""
    bytes: int | None = None
    train_loss: float | None = None
    kept: float | None = None
    """The share of its update that clipping left; None: all of it."""
    energy: Energy = field(default_factory=dict)
    """Since its update before this one."""

    @property
    def updated(self) -> bool:
        """Whether its update was in."""
        return self.arrived_s is not None

    @property
    def mbps(self) -> float | None:
        """Mbit/s at which its update came up; None: there is none, or it took no time."""
        if not self.upload_s or self.bytes is None:
            return None
        return self.bytes * 8e-6 / self.upload_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """A device that was left out of a round."""

    client: str
    returns: int
    """The round from which it may take part again."""
    why: str | None
    """How its update stood out in this round; None: it had in an earlier one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFigures:
    """A cluster in a round."""

    cluster: str
    edge: str
    clients: tuple[str, ...]
    divergence: float | None = None
    """KL of its labels from those of the round, in nats."""
    expected_s: float | None = None
    seconds: float | None = None
    """None: it gave no result."""
    tries: int = 1
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundFigures:
    """A finished round."""

    round: int
    seconds: float
    elapsed_s: float
    """Since round 1 began."""
    planned: bool
    updates: int
    missing: int
    refused: Mapping[str, int]
    accuracy: float | None = None
    loss: float | None = None
    cloud_accuracy: float | None = None
    energy: Energy = field(default_factory=dict)
    """Of all devices since round 1."""
    privacy: tuple[float, float] | None = None
    """ε and δ of a client with the round's model; None: it hides none, or nobody reckoned."""
    times_taken_back: int = 0
    """Before it was played as it is told here."""
    taken_back: tuple[str, ...] = ()
    """Why, each time; of older rounds it is not kept."""
    sat_out: tuple[Absent, ...] = ()
    """Who was left out, since their updates had stood out."""
    participants: tuple[Participant, ...] = ()
    """Empty in older rounds, of which only sums are kept."""
    clusters: tuple[ClusterFigures, ...] = ()
    cut: str | None = None

    @property
    def detailed(self) -> bool:
        """Whether its devices are known."""
        return bool(self.participants)

    def finished(self) -> list[Participant]:
        """Whose updates were in, in the order of arrival."""
        done = [(one.arrived_s, one.client, one) for one in self.participants]
        return [one for _, _, one in sorted(each for each in done if each[0] is not None)]

    def upload_bytes(self) -> int | None:
        """Of all updates; None: not kept."""
        if not self.detailed:
            return None
        return sum(one.bytes or 0 for one in self.participants)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientFigures:
    """A device as it registered."""

    client: str
    group: str
    examples: int
    labels: tuple[int, ...]
    """Examples of each label; empty: it told none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupFigures:
    """A group of devices in the manifest."""

    name: str
    devices: int
    min_ghz: float
    max_ghz: float
    cpu_at_max: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConditionFigures:
    """A condition of the job."""

    type: str
    status: str
    reason: str
    message: str
    since: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFigures:
    """A job, all that is known of it."""

    name: str
    namespace: str = "default"
    mode: str
    strategy: str
    policy: str
    energy_weight: float
    model: str
    dataset: str
    rounds_wanted: int
    target: tuple[str, float] | None = None
    """Metric and value that end the job."""
    groups: tuple[GroupFigures, ...]
    edges: tuple[tuple[str, int], ...] = ()
    """Groups of edges, and how many each has."""
    phase: str | None = None
    conditions: tuple[ConditionFigures, ...] = ()
    started: str | None = None
    ended: str | None = None
    rounds: tuple[RoundFigures, ...] = ()
    """By number; a round that was played again counts once, as it came out in the end."""
    clients: tuple[ClientFigures, ...] = ()
    manifest: str = ""
    """As text; empty: not to be shown."""

    @property
    def devices(self) -> int:
        """Of all groups."""
        return sum(group.devices for group in self.groups)

    @property
    def last(self) -> RoundFigures | None:
        """The newest round."""
        return self.rounds[-1] if self.rounds else None

    def detailed(self) -> list[RoundFigures]:
        """The rounds of which devices are known."""
        return [one for one in self.rounds if one.detailed]

    def sources(self) -> list[str]:
        """The sources of energy that were told."""
        last = self.last
        return sorted(last.energy) if last else []

    def source(self) -> str | None:
        """The source that pictures of one show: the modelled one where it was told."""
        told = self.sources()
        return "model" if "model" in told else next(iter(told), None)
