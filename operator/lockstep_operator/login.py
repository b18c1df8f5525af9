"""How the apiserver is reached: the configuration of `kube`, which `app` loads."""

from kubernetes.aio import config as kube_config
from kubernetes.aio.client.configuration import Configuration


async def load_configuration(kubeconfig: str | None, context: str | None) -> Configuration:
    """The configuration from a kubeconfig, or in-cluster when neither file nor context is named."""
    # The class's own call returns a copy of a process-wide default; type.__call__ makes a new one.
    configuration: Configuration = type.__call__(Configuration)
    # Certificates without key identifiers, as kubectl takes them: Python 3.13 refuses them by
    # default, and many clusters' certificate authorities write none.
    configuration.disable_strict_ssl_verification = True
    if kubeconfig or context:
        await kube_config.load_kube_config(  # type: ignore[no-untyped-call]
            config_file=kubeconfig, context=context, client_configuration=configuration
        )
    else:
        try:
            kube_config.load_incluster_config(  # type: ignore[no-untyped-call]
                client_configuration=configuration
            )
        except kube_config.ConfigException:
            await kube_config.load_kube_config(  # type: ignore[no-untyped-call]
                client_configuration=configuration
            )
    return configuration
