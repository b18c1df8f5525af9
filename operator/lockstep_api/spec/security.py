"""How a job is kept from strangers."""

import ipaddress
from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field

from lockstep_api.base import ApiModel
from lockstep_api.rules import no_change, rules


class Tls(StrEnum):
    """Whether the pods of a job speak TLS with each other."""

    AUTO = "auto"
    DISABLED = "disabled"


class NetworkPolicy(StrEnum):
    """Whether the operator says who reaches the pods of a job."""

    AUTO = "auto"
    DISABLED = "disabled"


_OCTET = "(25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_V4 = rf"{_OCTET}(\.{_OCTET}){{3}}/(3[0-2]|[12]?[0-9])"
_V6 = "[0-9a-fA-F:]{2,39}/(12[0-8]|1[01][0-9]|[1-9]?[0-9])"


def _network(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"{error}: write a range such as 10.1.0.0/16 or 192.0.2.7/32") from None
    return text


class Egress(ApiModel):
    """Addresses that pods of the job may reach."""

    cidr: Annotated[str, Field(pattern=f"^({_V4}|{_V6})$", max_length=43), AfterValidator(_network)]
    """A range of addresses, such as 192.0.2.0/24; 0.0.0.0/0 is every IPv4 address."""
    ports: Annotated[list[Annotated[int, Field(ge=1, le=65_535)]], Field(max_length=16)] = Field(
        default_factory=list
    )
    """TCP ports there; every port of every protocol when empty."""


class Security(ApiModel):
    """How the job is kept from strangers."""

    model_config = rules(no_change("security.tls", new="self.tls", old="oldSelf.tls"))

    tls: Tls = Tls.AUTO
    """Whether the job's pods speak TLS with each other: `auto`: where the operator makes
    certificates, as it does unless the chart's tls.enabled is false; `disabled`: never. Servers
    are then plain HTTP: whoever reads packets reads models and updates."""
    network_policy: NetworkPolicy = NetworkPolicy.AUTO
    """Whether only the job's own pods, the operator and Prometheus reach its pods, and these
    nothing else: `auto`: by NetworkPolicies that the operator makes unless the chart's
    networkPolicy.enabled is false; they need a network plugin that enforces them. `disabled`: by
    none. A change counts at once."""
    egress: Annotated[list[Egress], Field(max_length=32)] = Field(default_factory=list)
    """What the job's pods may reach beside each other, the operator and DNS: where your own code
    fetches data from. A change counts at once."""
