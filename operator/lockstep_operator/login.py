"""Kopf's credentials, taken from the same configuration as those of `kube`.

`app` makes the login and `handlers` registers it. Kopf asks again when the apiserver refuses its
token, and before it expires, so the configuration's own token refresh is what counts.
"""

import ssl
from datetime import UTC, datetime, timedelta

import kopf
from kubernetes.aio.client.configuration import Configuration

from lockstep_operator.handlers import Login

TOKEN_LIFE = timedelta(minutes=5)


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
