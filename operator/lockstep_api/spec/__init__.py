"""The desired state of a FederatedJob (`lockstep.dev/v1alpha1`), the source of the CRD.

A docstring under a field is what `kubectl explain` shows, so each gives meaning and unit. Rules
that span fields are CEL rules beside the model (`rules`); the apiserver enforces them, and the
tests show each one refusing a manifest.

`work` is what is learnt and how, `pods` what it runs on, `tiers` how edges take part, `telemetry`
what is told of it, `security` what keeps strangers out, `privacy` what is hidden, `job` the whole.
Everybody imports from here.
"""

from lockstep_api.spec.job import (
    Actuator,
    Allocation,
    AllocationPolicy,
    CheckpointSpec,
    FederatedJobSpec,
)
from lockstep_api.spec.pods import (
    Cloud,
    DeviceGroup,
    Edge,
    Energy,
    Frequency,
    LinkSpec,
    PodTemplate,
    PowerTableEntry,
    Storage,
    Toleration,
)
from lockstep_api.spec.privacy import Privacy
from lockstep_api.spec.security import Egress, NetworkPolicy, Security, Tls
from lockstep_api.spec.telemetry import PerDevice, Telemetry
from lockstep_api.spec.tiers import (
    Clustering,
    ClusteringMethod,
    Distillation,
    FrontUpdate,
    LayerName,
    Mode,
    Offload,
    Split,
    Teacher,
    WireDtype,
)
from lockstep_api.spec.work import (
    Aggregation,
    CalibrationGradient,
    Data,
    LocalSteps,
    Model,
    Participation,
    Partition,
    PartitionScheme,
    PerDeviceSteps,
    PlannedSteps,
    StrategyName,
    StrategySpec,
    Target,
    TrainingSpec,
)

__all__ = [
    "Actuator",
    "Aggregation",
    "Allocation",
    "AllocationPolicy",
    "CalibrationGradient",
    "CheckpointSpec",
    "Cloud",
    "Clustering",
    "ClusteringMethod",
    "Data",
    "DeviceGroup",
    "Distillation",
    "Edge",
    "Egress",
    "Energy",
    "FederatedJobSpec",
    "Frequency",
    "FrontUpdate",
    "LayerName",
    "LinkSpec",
    "LocalSteps",
    "Mode",
    "Model",
    "NetworkPolicy",
    "Offload",
    "Participation",
    "Partition",
    "PartitionScheme",
    "PerDevice",
    "PerDeviceSteps",
    "PlannedSteps",
    "PodTemplate",
    "PowerTableEntry",
    "Privacy",
    "Security",
    "Split",
    "Storage",
    "StrategyName",
    "StrategySpec",
    "Target",
    "Teacher",
    "Telemetry",
    "Tls",
    "Toleration",
    "TrainingSpec",
    "WireDtype",
]
