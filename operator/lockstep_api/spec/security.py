"""How a job is kept from strangers."""

from enum import StrEnum

from lockstep_api.base import ApiModel
from lockstep_api.rules import no_change, rules


class Tls(StrEnum):
    """Whether the pods of a job speak TLS with each other."""

    AUTO = "auto"
    DISABLED = "disabled"


class Security(ApiModel):
    """How the job is kept from strangers."""

    model_config = rules(no_change("security.tls", new="self.tls", old="oldSelf.tls"))

    tls: Tls = Tls.AUTO
    """Whether the job's pods speak TLS with each other: `auto`: where the operator makes
    certificates, as it does unless the chart's tls.enabled is false; `disabled`: never. Servers
    are then plain HTTP: whoever reads packets reads models and updates."""
