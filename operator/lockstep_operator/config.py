"""The operator's configuration: environment variables LOCKSTEP_*, read once by `app`.

Options of the command line override the environment; nothing else reads the environment.
"""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

from lockstep_operator.core.model import Settings

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")


class OperatorConfig(BaseSettings):
    """Everything that can be configured."""

    model_config = SettingsConfigDict(env_prefix="LOCKSTEP_", frozen=True)

    worker_image: str = "lockstep.local/worker:0.1.0"
    """Image of the workers of jobs that name none."""
    planner_url: str | None = None
    """Where cloud pods reach the planner; derived from `service` and the own namespace if empty."""
    service: str = "lockstep-operator"
    """The Service in front of the planner."""
    listen: Annotated[str, Field(pattern=r"^.+:\d+$")] = "0.0.0.0:8080"
    """Address and port of planner, probes and metrics."""
    namespaces: tuple[str, ...] = ()
    """Namespaces to watch; all when empty."""
    resync_seconds: Annotated[float, Field(gt=0)] = 120.0
    """Seconds after which every job is looked at again without an event."""
    planner_auth: bool = True
    """Whether the planner checks the callers' tokens."""
    cpu_watts: Annotated[float, Field(gt=0)] = 10.0
    """Watts of one busy core, for energy of source `cpu`."""
    boost_cores: Annotated[float, Field(gt=0)] = 1.0
    """CPU limit of a starting device pod in cores, when cpuAtMax is lower."""
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    """Pull policy of the workers' image."""
    log_format: Literal["plain", "json"] = "plain"
    """Format of the log."""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least level that is logged."""
    kubeconfig: str | None = None
    """A kubeconfig; in-cluster credentials when empty."""
    context: str | None = None
    """A context of the kubeconfig."""

    @property
    def host(self) -> str:
        return self.listen.rpartition(":")[0]

    @property
    def port(self) -> int:
        return int(self.listen.rpartition(":")[2])

    def settings(self, namespace_file: Path = NAMESPACE_FILE) -> Settings:
        """What decisions need."""
        return Settings(
            worker_image=self.worker_image,
            planner_url=self.planner_url or self._service_url(namespace_file),
            image_pull_policy=self.image_pull_policy,
            boost_cores=self.boost_cores,
            cpu_watts=self.cpu_watts,
        )

    def _service_url(self, namespace_file: Path) -> str:
        inside = namespace_file.exists()
        namespace = namespace_file.read_text().strip() if inside else "lockstep-system"
        return f"http://{self.service}.{namespace}.svc:8080"
