"""How the apiserver is reached: the configuration of `kube`, and Kopf's credentials out of it.

`app` loads the one, `lead` makes the login, which `handlers` registers. Kopf asks again when the
apiserver refuses its token, and before it expires, so the configuration's own refresh counts.
"""

import ssl
from datetime import UTC, datetime, timedelta

import kopf
from kubernetes.aio import config as kube_config
from kubernetes.aio.client.configuration import Configuration

from lockstep_operator.handlers import Login

TOKEN_LIFE = timedelta(minutes=5)


async def load_configuration(kubeconfig: str | None, context: str | None) -> Configuration:
    """The configuration from a kubeconfig, or in-cluster when neither file nor context is named."""
    # The class's own call returns a copy of a process-wide default; type.__call__ makes a new one.
    configuration: Configuration = type.__call__(Configuration)
    configuration.disable_strict_ssl_verification = True  # see `_Connection`
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


class _Connection(kopf.ConnectionInfo):
    """Takes certificates without key identifiers, as kubectl does and as `kube` is configured.

    Python 3.13 refuses them by default; many clusters' certificate authorities write none.
    """

    def as_ssl_context(self) -> ssl.SSLContext:
        context = super().as_ssl_context()
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        return context


def login_from(configuration: Configuration) -> Login:
    """A login that reads the configuration anew each time."""

    async def login() -> kopf.ConnectionInfo:
        header = await configuration.get_api_key_with_prefix("BearerToken", alias="authorization")
        scheme, _, token = (header or "").rpartition(" ")
        return _Connection(
            server=configuration.host,
            ca_path=configuration.ssl_ca_cert,
            insecure=not configuration.verify_ssl,
            scheme=scheme or ("Bearer" if token else None),
            token=token.strip() or None,
            certificate_path=configuration.cert_file,
            private_key_path=configuration.key_file,
            username=configuration.username or None,
            password=configuration.password or None,
            expiration=datetime.now(UTC) + TOKEN_LIFE if token else None,
        )

    return login
