"""Whom the pods of a job trust, and for which of its servers there are certificates.

`children` puts the first into a job's settings, `authority` asks for the second. Whether a job
speaks TLS is decided here, for both.
"""

from lockstep_api import names
from lockstep_api.settings import edge_names
from lockstep_api.spec import FederatedJobSpec, Tls
from lockstep_operator.core.model import JobKey, JobView, Settings
from lockstep_operator.errors import UnfitRequest


def speaks_tls(spec: FederatedJobSpec, settings: Settings) -> bool:
    """Whether the servers of a job have certificates."""
    return settings.authority is not None and spec.security.tls is Tls.AUTO


def cloud_url(job: JobView, spec: FederatedJobSpec, *, settings: Settings) -> str:
    """Where devices and edges reach the cloud pod."""
    scheme = "https" if speaks_tls(spec, settings) else "http"
    return f"{scheme}://{names.cloud_host(job.key.namespace, job.key.name)}:{names.HTTP_PORT}"


def trusted(job: JobView, spec: FederatedJobSpec, *, settings: Settings) -> dict[str, str]:
    """The certificates of CAs that a job's pods trust, by file."""
    files = dict[str, str]()
    if speaks_tls(spec, settings) and settings.authority is not None:
        files[names.CA_FILE] = settings.authority.of_job(job.uid, job_hosts(job.key)).pem
    if settings.planner_ca is not None:
        files[names.PLANNER_CA_FILE] = settings.planner_ca
    return files


def job_hosts(key: JobKey) -> tuple[str, ...]:
    """Where the servers of a job are, or below."""
    return names.cloud_host(key.namespace, key.name), names.edges_host(key.namespace, key.name)


def server_host(key: JobKey, spec: FederatedJobSpec, *, server: str) -> str:
    """The host of one of a job's servers.

    Raises:
        UnfitRequest: it has no such server.
    """
    if server == names.CLOUD_SERVER:
        return names.cloud_host(key.namespace, key.name)
    if server not in edge_names(spec):
        raise UnfitRequest("server: neither cloud nor an edge of the job")
    return names.edge_host(key.namespace, key.name, edge=server)
