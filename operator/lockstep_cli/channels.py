"""Websockets into a pod, through the apiserver: their frames begin with the number of a channel.

`execution` and `forwarding` open them. Invariants: the apiserver proves who it is as it does for
any other call; what proves who we are goes to nobody else, whatever it answers.
"""

import ssl
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from lockstep_cli.cluster import PODS, Cluster, Request, path_of
from lockstep_cli.refusals import Asked, error_of


@dataclass(frozen=True, slots=True)
class Entrance:
    """What of a pod is opened."""

    namespace: str
    pod: str
    part: str
    """`exec`, `portforward`."""
    query: tuple[tuple[str, str], ...]
    protocols: str
    """What the frames may be like, the best first, with commas."""


def opened(cluster: Cluster, entrance: Entrance, *, timeout_s: float) -> Any:
    """The websocket, on which nothing is waited for longer than `timeout_s`.

    Raises:
        CliError: the apiserver, or the node, refuses it.
        WebSocketException: there is none.
        OSError: nor an answer.
    """
    from kubernetes.stream.ws_client import websocket_proxycare  # noqa: PLC0415 - half a second
    from websocket import WebSocket, WebSocketBadStatusException  # noqa: PLC0415 - as above

    path = path_of(PODS, entrance.namespace, name=entrance.pod, part=entrance.part)
    address, headers = cluster.addressed(Request("GET", path))
    url = f"ws{address.removeprefix('http')}?{urlencode(entrance.query)}"
    configuration = cluster.client.configuration
    told = [f"sec-websocket-protocol: {entrance.protocols}"]
    told += [f"{key}: {headers[key]}" for key in ("authorization",) if key in headers]
    socket = WebSocket(sslopt=_trust(configuration), skip_utf8_validation=False)
    options = websocket_proxycare(  # type: ignore[no-untyped-call]
        {"header": told, "timeout": timeout_s, "redirect_limit": 0}, configuration, url, headers
    )
    try:
        socket.connect(url, **options)  # type: ignore[no-untyped-call]
    except WebSocketBadStatusException as error:
        asked = Asked(
            f"{entrance.part} in pod {entrance.pod}",
            f"pods/{entrance.part}",
            namespace=entrance.namespace,
        )
        raise error_of(error.status_code, error.resp_body or b"", asked=asked) from error
    return socket


def _trust(configuration: Any) -> dict[str, Any]:
    """Whom the kubeconfig trusts, and what shows who we are."""
    ours = {
        "certfile": configuration.cert_file,
        "keyfile": configuration.key_file,
        "server_hostname": configuration.tls_server_name,
    }
    if not configuration.verify_ssl:
        return ours | {"cert_reqs": ssl.CERT_NONE, "check_hostname": False}
    return ours | {
        "cert_reqs": ssl.CERT_REQUIRED,
        "ca_certs": configuration.ssl_ca_cert,
        "check_hostname": configuration.assert_hostname is not False,
    }
