"""What a worker learns from its pod: environment variables, read once in `app`."""

from pathlib import Path

from pydantic_settings import BaseSettings, SettingsConfigDict

from lockstep_api import names
from lockstep_api.settings import JobSettings
from lockstep_workers.errors import InvalidJob
from lockstep_workers.trust import Trust


class Environment(BaseSettings):
    """Settings of one pod (`LOCKSTEP_…`)."""

    model_config = SettingsConfigDict(env_prefix=names.ENV_PREFIX, frozen=True)

    pod: str = ""
    """Name of the pod."""
    pod_uid: str = ""
    """UID of the pod."""
    group: str = ""
    """Device group of a device, edge group of an edge."""
    settings: Path = Path(names.SETTINGS_DIR) / names.SETTINGS_FILE
    """The job's settings."""
    data_dir: Path = Path(names.DATA_DIR)
    """The cloud pod's volume."""
    traces: Path = Path(names.TRACES_DIR)
    """Folder with a folder for each ConfigMap of bandwidth traces."""
    experience: Path = Path(names.EXPERIENCE_DIR)
    """Folder with the rounds and the policy that a trainer learns from."""
    memory: Path = Path("/tmp/lockstep")
    """Folder in which a device keeps what its strategy remembers; it outlives the container."""
    token_file: Path = Path(names.TOKEN_DIR) / names.TOKEN_FILE
    """Token for the planner, or of devices and edges for the cloud pod; without it none is sent."""
    datasets: Path = Path("/usr/share/datasets")
    """Folder of the built-in data sets."""
    host: str = "0.0.0.0"
    """Address to listen on."""
    port: int = names.HTTP_PORT
    """Port on which devices and edges are served."""
    metrics_port: int = names.METRICS_PORT
    """Port of probes and metrics."""
    log: str = "json"
    """`json` or `text`."""

    @property
    def ca_file(self) -> Path:
        """The CA of the job's servers, where they speak TLS."""
        return self.settings.parent / names.CA_FILE

    def trust(self) -> Trust:
        """Whom the pod takes for a server of its job."""
        return Trust(self.ca_file)

    def planner_trust(self) -> Trust:
        """Whom it takes for the planner."""
        return Trust(self.settings.parent / names.PLANNER_CA_FILE)

    def client(self) -> str:
        """The client's name; errors as `edge`."""
        return self._name("device")

    def edge(self) -> str:
        """The edge's name: its group and the ordinal at the end of the pod's name.

        Raises:
            InvalidJob: the pod is not one of a StatefulSet.
        """
        return self._name("edge")

    def _name(self, what: str) -> str:
        ordinal = self.pod.rpartition("-")[2]
        if not self.group or not ordinal.isdigit():
            raise InvalidJob(
                f"{names.POD_ENV}={self.pod!r} and {names.GROUP_ENV}={self.group!r} name no {what}"
            )
        return names.client_name(self.group, int(ordinal))

    def job(self) -> JobSettings:
        """The job's settings.

        Raises:
            InvalidJob: the file is missing or unreadable.
        """
        try:
            return JobSettings.model_validate_json(self.settings.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise InvalidJob(f"cannot read the job's settings {self.settings}: {error}") from error
