"""The operator's configuration: environment variables LOCKSTEP_*, read once by `app`.

Options of the command line override the environment; nothing else reads the environment.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from lockstep_api.names import HTTP_PORT, METRICS_PORT
from lockstep_operator.core.allowed import Allowed
from lockstep_operator.core.certificates import CERTIFICATE_S, Authority
from lockstep_operator.core.election import Timing
from lockstep_operator.core.model import Settings
from lockstep_operator.core.network import Network

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


Peer = dict[str, Any]
"""As a NetworkPolicy has it; the apiserver says what is wrong with one."""


class NetworkConfig(BaseModel):
    """What is outside of a job and in its NetworkPolicies: one JSON text, which the chart makes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    metrics: tuple[Peer, ...] = ()
    """Who reads the metrics of pods."""
    dns: tuple[Peer, ...] = ()
    """Who resolves names; anybody when empty."""
    dns_ports: Annotated[tuple[int, ...], Field(min_length=1)] = (53,)
    """Where they do."""
    planner: tuple[Peer, ...] = ()
    """The operator's pods; anybody at the planner's port when empty."""


class OperatorConfig(BaseSettings):
    """Everything that can be configured."""

    model_config = SettingsConfigDict(env_prefix="LOCKSTEP_", frozen=True)

    worker_image: str = "lockstep.local/worker:0.1.0"
    """Image of the workers of jobs that name none."""
    planner_url: str | None = None
    """Where cloud pods reach the planner, which serves TLS if it says https://. Derived from `tls`,
    `service` and the own namespace if empty."""
    service: str = "lockstep-operator"
    """The Service in front of the planner."""
    listen: Annotated[str, Field(pattern=r"^.+:\d+$")] = f"0.0.0.0:{HTTP_PORT}"
    """Address and port of the planner."""
    metrics_listen: Annotated[str, Field(pattern=r"^.+:\d+$")] = f"0.0.0.0:{METRICS_PORT}"
    """Address and port of probes and metrics."""
    namespaces: tuple[str, ...] = ()
    """Namespaces to watch; all when empty."""
    resync_seconds: Annotated[float, Field(gt=0)] = 120.0
    """Seconds after which every job is looked at again without an event."""
    planner_auth: bool = True
    """Whether the planner checks the callers' tokens, and cloud pods those of their clients."""
    tls: bool = False
    """Whether the operator makes certificates: for the servers of jobs, and for the planner."""
    issuer_dir: Path | None = None
    """Folder with a CA (tls.crt, tls.key) that signs those of jobs and of the planner, for clients
    that trust it; they stand alone when empty."""
    certificate_seconds: Annotated[float, Field(ge=10, le=30 * 86400)] = CERTIFICATE_S
    """How long a server's certificate lasts; it is replaced after two thirds of that."""
    prometheus_url: str | None = None
    """Base URL of the Prometheus that scrapes the jobs' pods; reports stand in when empty."""
    policy_dir: Path | None = None
    """Folder with policy files, for policyRef `volume/NAME`."""
    cpu_watts: Annotated[float, Field(gt=0)] = 10.0
    """Watts of one busy core, for energy of source `cpu`."""
    boost_cores: Annotated[float, Field(gt=0)] = 1.0
    """CPU limit of a starting device pod in cores, when cpuAtMax is lower."""
    allowed_images: tuple[str, ...] = ()
    """Patterns of the images that jobs may ask for (`*`: any characters); all when empty."""
    allowed_priority_classes: tuple[str, ...] = ()
    """Patterns of the PriorityClasses that jobs may ask for; all but `system-…` when empty."""
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    """Pull policy of the workers' image."""
    leader_elect: bool = False
    """Whether to write and plan only while holding a Lease: for more than one operator."""
    lease_name: str = "lockstep-operator"
    """Name of the Lease."""
    lease_namespace: str | None = None
    """Its namespace, and the one of the Secret with the seed of certificates; the operator's own
    when empty."""
    lease_seconds: float = 20.0
    """Seconds that others wait for a leader that has fallen silent."""
    renew_seconds: float = 15.0
    """Seconds without a renewal after which a leader stops; fewer than lease_seconds."""
    retry_seconds: float = 2.0
    """Seconds between two looks at the Lease; fewer than renew_seconds."""
    network: NetworkConfig | None = None
    """Makes NetworkPolicies for jobs; none are made when empty."""
    pod: str = ""
    """Name of the operator's own pod; empty outside a cluster."""
    account: str = ""
    """Name of its ServiceAccount, in the Lease's namespace; without it other operators do not heed
    what this one looks after."""
    log_format: Literal["plain", "json"] = "plain"
    """Format of the log."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least level that is logged."""
    kubeconfig: str | None = None
    """A kubeconfig; in-cluster credentials when empty."""
    context: str | None = None
    """A context of the kubeconfig."""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """What the environment says, under the options that are given (not None).

        Raises:
            ValidationError: a value is wrong.
        """
        return cls(**{name: value for name, value in options.items() if value is not None})

    @property
    def planner_address(self) -> tuple[str, int]:
        return _address(self.listen)

    @property
    def metrics_address(self) -> tuple[str, int]:
        return _address(self.metrics_listen)

    @model_validator(mode="after")
    def _check_timing(self) -> Self:
        self.timing()
        return self

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        if self.planner_url is not None and tls_host(self.planner_url) and not self.tls:
            raise ValueError(
                f"planner_url is {self.planner_url}, but the operator makes no certificates:"
                " set tls, or say http://"
            )
        return self

    def timing(self) -> Timing:
        """Seconds of the leader election."""
        return Timing(self.lease_seconds, self.renew_seconds, self.retry_seconds)

    def own_namespace(self, namespace_file: Path = NAMESPACE_FILE) -> str:
        """Where the operator itself runs."""
        inside = namespace_file.exists()
        return namespace_file.read_text().strip() if inside else "lockstep-system"

    def home(self) -> str:
        """Where the operator keeps what is its own: Lease and seed."""
        return self.lease_namespace or self.own_namespace()

    def settings(
        self, namespace_file: Path = NAMESPACE_FILE, *, authority: Authority | None = None
    ) -> Settings:
        """What decisions need."""
        url = self.planner_at(namespace_file)
        host, ca = tls_host(url), None
        if authority is not None and host is not None:
            ca = authority.of_planner(host).pem
        return Settings(
            worker_image=self.worker_image,
            planner_url=url,
            image_pull_policy=self.image_pull_policy,
            allowed=Allowed(self.allowed_images, self.allowed_priority_classes),
            boost_cores=self.boost_cores,
            cpu_watts=self.cpu_watts,
            identity=self.planner_auth,
            network=self._network(url),
            authority=authority,
            planner_ca=ca,
        )

    def _network(self, planner_url: str) -> Network | None:
        """With the planner's port as its pods have it, which is that of its Service."""
        if (said := self.network) is None:
            return None
        at = urlsplit(planner_url)
        return Network(
            metrics_from=said.metrics,
            dns=said.dns,
            dns_ports=said.dns_ports,
            planner=said.planner,
            planner_port=at.port or (443 if at.scheme == "https" else 80),
        )

    def planner_at(self, namespace_file: Path = NAMESPACE_FILE) -> str:
        """Where cloud pods reach the planner."""
        return self.planner_url or self._service_url(namespace_file)

    def _service_url(self, namespace_file: Path) -> str:
        scheme = "https" if self.tls else "http"
        host = f"{self.service}.{self.own_namespace(namespace_file)}.svc"
        return f"{scheme}://{host}:{HTTP_PORT}"


def tls_host(url: str) -> str | None:
    """The host of an https:// URL."""
    parts = urlsplit(url)
    return parts.hostname if parts.scheme == "https" else None


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host, int(port)
