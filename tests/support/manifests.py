"""Manifests that are refused, each with what is said of it, and odd ones that are taken.

The tests of the models, of the apiserver and of the check without one try each of them.
"""

import copy
from collections.abc import Iterator
from typing import Any

from lockstep_api.quantity import BYTES_MESSAGE, CORES_MESSAGE
from lockstep_api.spec import StrategyName
from lockstep_api.spec.kubernetes import key_message

Json = dict[str, Any]


def nested(levels: int, innermost: Any = 1) -> Any:
    """A list in a list, so many of them; of mappings, if the innermost is one."""
    value = innermost
    for _ in range(levels):
        value = {"a": value} if isinstance(innermost, dict) else [value]
    return value


MINIMAL: Json = {
    "model": {"name": "mlp"},
    "data": {"name": "fashion-mnist"},
    "training": {"rounds": 3},
    "devices": [{"name": "all"}],
}
PRIVACY: Json = {"clipNorm": 1.0, "noiseMultiplier": 1.0}
ABSENT = object()
# Taken by the apiserver, refused by the operator (NotSupported): the data set has no users.
NATURAL: Json = {"name": "fashion-mnist", "partition": {"scheme": "natural"}}


def changed(spec: Json, changes: Json) -> Json:
    """A copy with fields set (`{"training.rounds": 0}`) or removed (ABSENT)."""
    made = copy.deepcopy(spec)
    for path, value in changes.items():
        *parents, last = path.split(".")
        at: Any = made
        for key in parents:
            at = at[int(key)] if key.isdigit() else at.setdefault(key, {})
        if value is ABSENT:
            del at[last]
        else:
            at[int(last) if last.isdigit() else last] = value
    return made


OF_LABEL = key_message("a label")
OF_ANNOTATION = key_message("an annotation")
MATCH = "should match"
LONG = "a" * 64

# (fields, part of what the apiserver says)
REFUSED_BY_RULES: list[tuple[Json, str]] = [
    ({"podTemplate": {"labels": {"data science": "x"}}}, OF_LABEL),
    ({"podTemplate": {"labels": {LONG: "x"}}}, OF_LABEL),
    ({"podTemplate": {"labels": {"-a": "x"}}}, OF_LABEL),
    ({"podTemplate": {"labels": {"UPPER.example.com/a": "x"}}}, OF_LABEL),
    ({"podTemplate": {"labels": {"/a": "x"}}}, OF_LABEL),
    ({"podTemplate": {"labels": {"a/b/c": "x"}}}, OF_LABEL),
    ({"podTemplate": {"labels": {"a" * 254 + "/b": "x"}}}, OF_LABEL),
    ({"podTemplate": {"nodeSelector": {"a b": "x"}}}, OF_LABEL),
    ({"podTemplate": {"annotations": {"a b": "x"}}}, OF_ANNOTATION),
    ({"podTemplate": {"annotations": {"": "x"}}}, OF_ANNOTATION),
    (
        {"podTemplate": {"tolerations": [{"effect": "NoSchedule"}]}},
        "tolerations: without a key (which matches every taint) operator must be Exists",
    ),
    (
        {"podTemplate": {"tolerations": [{"key": "a", "operator": "Exists", "value": "b"}]}},
        "tolerations: operator Exists has no value; remove value, or use operator Equal",
    ),
    (
        {"podTemplate": {"tolerations": [{"key": "a", "tolerationSeconds": 5}]}},
        "tolerations: tolerationSeconds belongs to effect NoExecute only",
    ),
    ({"devices.0.memory": "512m"}, BYTES_MESSAGE),
    ({"devices.0.memory": 512}, BYTES_MESSAGE),
    ({"cloud.memory": "100k"}, BYTES_MESSAGE),
    ({"cloud.storage": {"size": "10"}}, BYTES_MESSAGE),
    ({"devices.0.cpuAtMax": "200Mi"}, CORES_MESSAGE),
    ({"devices.0.cpuAtMax": "0.5m"}, CORES_MESSAGE),
    ({"cloud.cpu": "1M"}, CORES_MESSAGE),
    ({"cloud": {"cpu": "1", "cpuLimit": "900m"}}, "cloud: cpuLimit must be at least cpu"),
    (
        {"devices.0.cpuAtMax": 2, "devices.0.cpuAtStart": "1500m"},
        "devices: cpuAtStart must be at least cpuAtMax",
    ),
]
REFUSED_BY_SCHEMA: list[tuple[Json, str]] = [
    ({"podTemplate": {"labels": {"team": "data science"}}}, MATCH),
    ({"podTemplate": {"labels": {"team": "-x"}}}, MATCH),
    ({"podTemplate": {"labels": {"team": LONG}}}, "may not be more than 63"),
    ({"podTemplate": {"nodeSelector": {"disk": "fast ssd"}}}, MATCH),
    ({"devices.0.nodeSelector": {"disk": "fast,ssd"}}, MATCH),
    ({"podTemplate": {"tolerations": [{"key": "a b", "operator": "Exists"}]}}, MATCH),
    ({"podTemplate": {"tolerations": [{"key": "a", "value": "b c"}]}}, MATCH),
    ({"podTemplate": {"tolerations": [{"key": "a", "effect": "Never"}]}}, "Unsupported value"),
    ({"podTemplate": {"priorityClassName": "High_Priority"}}, MATCH),
    ({"podTemplate": {"runtimeClassName": "gVisor"}}, MATCH),
    ({"podTemplate": {"imagePullSecrets": ["my_secret"]}}, MATCH),
    ({"podTemplate": {"imagePullSecrets": ["a..b"]}}, MATCH),
    ({"cloud.storage": {"storageClassName": "fast disk"}}, MATCH),
    ({"image": "Team/Worker:1"}, MATCH),
    ({"image": "team/worker:1 "}, MATCH),
    ({"image": "http://registry.example.org/worker"}, MATCH),
    ({"image": "worker:"}, MATCH),
    ({"image": "worker@sha256:123"}, MATCH),
    ({"devices.0.uplink": {"trace": "lte..home"}}, MATCH),
    ({"allocation": {"policy": "ppo", "policyRef": "my..policy"}}, MATCH),
    ({"security": {"networkPolicy": "off"}}, "Unsupported value"),
    ({"security": {"egress": [{"cidr": "data.example.org"}]}}, MATCH),
    ({"security": {"egress": [{"cidr": "10.0.0.256/8"}]}}, MATCH),
    ({"security": {"egress": [{"cidr": "10.0.0.0/33"}]}}, MATCH),
    ({"security": {"egress": [{"cidr": "10.0.0.0/8", "ports": [0]}]}}, "greater than or equal"),
]
# The apiserver's rules cannot afford to see these; the operator refuses them (Accepted=False).
REFUSED_BY_THE_OPERATOR: list[Json] = [
    {"devices.0.nodeSelector": {"data science": "x"}},
    {"podTemplate": {"labels": {"example..com/a": "x"}}},
    {"podTemplate": {"labels": {"example.-com/a": "x"}}},
    {"security": {"egress": [{"cidr": "10.0.0.1/8"}]}},
    {"security": {"egress": [{"cidr": "1::2::3/64"}]}},
    {"model": {"name": "mlp", "args": {"hidden": nested(32)}}},
    {"data.args": nested(32, {})},
]
TAKEN: list[Json] = [
    {"model": {"name": "mlp", "args": {"hidden": nested(31)}}},
    *(
        {"privacy": PRIVACY, "strategy": {"name": name}}
        for name in ("fedavg", "fedprox", "fedadam", "fedyogi")
    ),
    {"podTemplate": {"labels": {"Team_1.x": "a.B_c-1", "example.com/a": ""}}},
    {"podTemplate": {"labels": {"a" * 63: "a" * 63}}},
    {"podTemplate": {"annotations": {"Example.com/Note": "any text, a b\n" * 200}}},
    {"podTemplate": {"nodeSelector": {"topology.kubernetes.io/zone": "eu-1"}}},
    {"podTemplate": {"tolerations": [{"operator": "Exists"}, {"key": "", "operator": "Exists"}]}},
    {"podTemplate": {"tolerations": [{"key": "example.com/a", "effect": ""}]}},
    {
        "podTemplate": {
            "tolerations": [{"key": "a", "effect": "NoExecute", "tolerationSeconds": -1}]
        }
    },
    {"podTemplate": {"imagePullSecrets": ["registry.example.com", "a" * 253]}},
    {"podTemplate": {"priorityClassName": "team.high", "runtimeClassName": ""}},
    {"cloud.storage": {"storageClassName": ""}},
    {"cloud.storage": {"storageClassName": "ebs.fast"}},
    {"image": "worker"},
    {"image": ""},
    {"image": "localhost:5000/team/my__worker.x-y:V1.0_rc"},
    {"image": "[fd00::1]:5000/worker@sha256:" + "0a" * 32},
    {"image": "Registry.Example.org/a/b/c:1@sha256:" + "0a" * 32},
    {"devices.0.memory": "1e9"},
    {"devices.0.memory": "1073741824"},
    {"devices.0.cpuAtMax": "250000u"},
    {"devices.0.cpuAtMax": 1, "devices.0.cpuAtStart": 1},
    {"cloud": {"cpu": "500m", "cpuLimit": 2}},
    {"devices.0.uplink": {"trace": "lte.home"}},
    {"security": {"networkPolicy": "disabled"}},
    {
        "security": {
            "egress": [{"cidr": "0.0.0.0/0", "ports": [80, 443]}, {"cidr": "2001:db8::/32"}]
        }
    },
]

NAME_MESSAGE = "metadata.name: use lower-case letters, digits and -, and begin with a letter"

EDGES = [{"name": "near"}]
EQUALIZED = {"allocation": {"policy": "equalize"}}
STEPS = {"distribution": "uniform", "min": 1, "max": 2}
# What the modes with edges can do.
TAKEN_WITH_EDGES: list[Json] = [
    {"mode": "hierarchical", "edges": EDGES, "privacy": PRIVACY},
    *(
        {"mode": "hierarchical", "edges": EDGES, "strategy": {"name": name}}
        for name in StrategyName
    ),
    *(
        {"mode": mode, "edges": EDGES, "allocation": {"policy": policy}}
        for mode, policies in (
            ("hierarchical", ("max", "static", "equalize", "ppo")),
            ("split", ("max", "static", "equalize")),
        )
        for policy in policies
    ),
    *(
        {"mode": "hierarchical", "edges": EDGES, "training.localSteps": steps, **more}
        for steps, more in (
            ({"budgetSeconds": 1}, {}),
            ({"perDevice": STEPS}, {}),
            ({"planned": {}}, EQUALIZED),
        )
    ),
    *(
        {"mode": mode, "edges": EDGES, "participation.fraction": 0.5, "clustering": clustering}
        for mode in ("hierarchical", "split")
        for clustering in (
            {},
            {"method": "random", "clusters": 3, "everyRounds": 5},
            {"method": "none", "clusters": 1},
            {"method": "literal", "minSize": 1, "epsilon": 0.1},
        )
    ),
    {"mode": "split", "edges": EDGES, "model": {"name": "cnn", "cut": "auto"}},
    {"mode": "split", "edges": EDGES, "model": {"front": "a.b:front", "back": "a.b:back"}},
    {
        "mode": "split",
        "edges": [{"name": "near", "cpu": "1", "cpuLimit": 1, "replicas": 1000}],
        "split": {"frontUpdate": "round", "wireDtype": "float32", "batches": "equal"},
        "offload": {"objective": "sum"},
        "distillation": {"enabled": True, "teacher": "none", "cloudEntrypoint": "a.b:c"},
        "participation": {"quorum": 1, "roundDeadlineSeconds": 30},
    },
]
ONLY_TOGETHER = "work only together; set both, or remove both"
TOGETHER = f"quorum and roundDeadlineSeconds {ONLY_TOGETHER}"
# (fields, part of the message): rules across fields first, then single fields.
RULES: list[tuple[Json, str]] = [
    (
        {"model.entrypoint": "a:b"},
        "model: set exactly one of name, entrypoint, and front with back",
    ),
    (
        {"model": {"args": {"a": 1}}},
        "model: set exactly one of name, entrypoint, and front with back",
    ),
    ({"data": {}}, "data: set exactly one of name and entrypoint"),
    ({"data.partition": {"alpha": 0.5}}, "data.partition: alpha belongs to scheme dirichlet only"),
    (
        {"data.partition": {"scheme": "dirichlet", "shardsPerClient": 2}},
        "data.partition: shardsPerClient belongs to scheme shards only",
    ),
    (
        {"training.localSteps": {"perDevice": {"min": 5, "max": 4}}},
        "localSteps.perDevice: min must be at most max",
    ),
    (
        {"training.localSteps": {"fixed": 1, "budgetSeconds": 2}},
        "training.localSteps: set exactly one of fixed, budgetSeconds, perDevice and planned",
    ),
    (
        {"training.localSteps": {}},
        "training.localSteps: set exactly one of fixed, budgetSeconds, perDevice and planned",
    ),
    (
        {"training.target": {"value": 82}},
        "training.target: accuracy is a share, so value must be at most 1",
    ),
    ({"strategy": {"mu": 0.1}}, "strategy: mu belongs to name fedprox only"),
    *(
        (
            {"strategy": {"name": name, "aggregation": "median"}},
            "strategy: aggregation trimmedMean, median and krum work with names fedavg, fedprox,"
            " fedadam and fedyogi only; what the others upload has to be summed up",
        )
        for name in ("fednova", "scaffold", "calibrated", "fedagrac")
    ),
    *(
        (
            {"strategy": {"aggregation": aggregation, "trim": 0.1}},
            "strategy: trim belongs to aggregation trimmedMean and krum only",
        )
        for aggregation in ("mean", "median")
    ),
    *(
        (
            {"privacy": {"clipNorm": 1, "noiseMultiplier": 1}, "strategy": own},
            "privacy needs strategy.aggregation mean without strategy.clipNorm: its own clipNorm"
            " bounds updates, and noise is reckoned for their mean",
        )
        for own in ({"aggregation": "median"}, {"clipNorm": 3})
    ),
    *(
        (
            {"mode": "hierarchical", "edges": EDGES, "strategy": {"aggregation": aggregation}},
            "strategy: aggregation trimmedMean, median and krum need each update at the cloud pod,"
            " and edges send up sums: they belong to mode federated only",
        )
        for aggregation in ("trimmedMean", "median", "krum")
    ),
    (
        {"strategy": {"name": "fedprox", "deviationWeight": 0.1}},
        "strategy: deviationWeight belongs to name calibrated only",
    ),
    (
        {"strategy": {"name": "scaffold", "calibrationWeight": 1}},
        "strategy: calibrationWeight belongs to names calibrated and fedagrac only",
    ),
    ({"strategy": {"gradient": "full"}}, "strategy: gradient belongs to name calibrated only"),
    (
        {"strategy": {"name": "calibrated", "gradient": "minibatches"}},
        f"strategy: minibatches and gradient minibatches {ONLY_TOGETHER}",
    ),
    (
        {"strategy": {"name": "calibrated", "minibatches": 3}},
        f"strategy: minibatches and gradient minibatches {ONLY_TOGETHER}",
    ),
    (
        {"strategy": {"name": "fedavg", "option": "I"}},
        "strategy: option belongs to name scaffold only",
    ),
    (
        {"training.localSteps": {"budgetSeconds": 2}, "allocation": {"policy": "equalize"}},
        "training.localSteps.budgetSeconds needs allocation.policy max: in a "
        "fixed time a lower frequency only means fewer steps",
    ),
    (
        {"training.localSteps": {"planned": {}}, "allocation": {"policy": "max"}},
        "training.localSteps.planned needs allocation.policy static, equalize "
        "or ppo: with max there is no frequency to plan",
    ),
    (
        {"strategy.name": "fedagrac", "training.momentum": 0.9},
        "strategy fedagrac needs training.momentum 0",
    ),
    (
        {"privacy": PRIVACY, "training.deterministic": True},
        "privacy: remove training.deterministic: noise that repeats can be taken off again",
    ),
    (
        {"privacy": PRIVACY, "mode": "split", "edges": EDGES},
        "privacy belongs to modes federated and hierarchical: in mode split edges see the labels "
        "and activations of every example",
    ),
    *(
        (
            {"privacy": PRIVACY, "strategy": {"name": name}},
            "privacy needs strategy fedavg, fedprox, fedadam or fedyogi: others upload more than "
            "the model, or weigh updates by what clients say",
        )
        for name in ("scaffold", "fedagrac", "calibrated", "fednova")
    ),
    (
        {"participation": {"quorum": 2, "roundDeadlineSeconds": 30}},
        "participation.quorum must be at most the number of devices",
    ),
    ({"participation.quorum": 1}, f"participation: {TOGETHER}"),
    ({"participation.roundDeadlineSeconds": 30}, f"participation: {TOGETHER}"),
    ({"mode": "hierarchical"}, "mode hierarchical and mode split need at least one entry in edges"),
    ({"edges": EDGES}, "edges belong to mode hierarchical or split; remove them or change mode"),
    ({"distillation": {"enabled": True}}, "distillation belongs to mode split only"),
    ({"split": {}}, "split belongs to mode split only"),
    ({"model.cut": "3"}, "model.cut belongs to mode split only"),
    (
        {"offload": {}},
        "clustering and offload belong to mode hierarchical or split; remove them or change mode",
    ),
    (
        {"clustering": {}},
        "clustering and offload belong to mode hierarchical or split; remove them or change mode",
    ),
    (
        {
            "mode": "hierarchical",
            "edges": EDGES,
            "devices.0.replicas": 8,
            "clustering": {"clusters": 3, "minSize": 3},
        },
        "clustering: minSize times clusters must be at most the number of devices",
    ),
    (
        {"mode": "split", "edges": EDGES, "clustering": {"minSize": 2}},
        "clustering: minSize times clusters must be at most the number of devices",
    ),
    ({"mode": "split"}, "mode hierarchical and mode split need at least one entry in edges"),
    (
        {"mode": "split", "edges": []},
        "mode hierarchical and mode split need at least one entry in edges",
    ),
    (
        {
            "mode": "split",
            "edges": [{"name": "e", "replicas": 600}, {"name": "f", "replicas": 600}],
        },
        "edges: a job has at most 1000 edge servers",
    ),
    (
        {"mode": "split", "edges": [{"name": "fast"}], "devices.0.name": "fast"},
        "edges: a group of edges and a group of devices need different names",
    ),
    (
        {"mode": "split", "edges": EDGES, "training.localSteps": {"budgetSeconds": 5}},
        "mode split needs training.localSteps.fixed: all devices of a cluster take each step "
        "together",
    ),
    (
        {"mode": "split", "edges": EDGES, "strategy": {"name": "fedprox"}},
        "mode split needs strategy fedavg without serverLearningRate and serverMomentum: halves "
        "are averaged by examples; other strategies work in modes federated and hierarchical",
    ),
    (
        {"mode": "split", "edges": EDGES, "training.localSteps": {"planned": {}}, **EQUALIZED},
        "mode split needs training.localSteps.fixed: all devices of a cluster take each step "
        "together",
    ),
    (
        {"mode": "split", "edges": EDGES, "training.localSteps": {"perDevice": STEPS}},
        "mode split needs training.localSteps.fixed: all devices of a cluster take each step "
        "together",
    ),
    *(
        (
            {"mode": "split", "edges": EDGES, "strategy": strategy},
            "mode split needs strategy fedavg without serverLearningRate and serverMomentum: "
            "halves are averaged by examples; other strategies work in modes federated and "
            "hierarchical",
        )
        for strategy in (
            *({"name": name} for name in StrategyName if name is not StrategyName.FEDAVG),
            {"name": "fedavg", "serverMomentum": 0.9},
            {"name": "fedavg", "serverLearningRate": 0.5},
        )
    ),
    (
        {"mode": "hierarchical", "edges": EDGES, "distillation": {"enabled": True}},
        "distillation belongs to mode split only",
    ),
    ({"mode": "hierarchical", "edges": EDGES, "split": {}}, "split belongs to mode split only"),
    (
        {"mode": "hierarchical", "edges": EDGES, "model.cut": "3"},
        "model.cut belongs to mode split only",
    ),
    (
        {"mode": "split", "edges": EDGES, "allocation": {"policy": "ppo"}},
        "mode split needs allocation.policy max, static or equalize: a policy for ppo is trained "
        "on rounds that upload once",
    ),
    (
        {"mode": "split", "edges": EDGES, "clustering": {"method": "none", "clusters": 2}},
        "clustering: method none makes one cluster; remove clusters or use another method",
    ),
    (
        {
            "mode": "split",
            "edges": EDGES,
            "distillation": {"cloudModel": "deeper", "cloudEntrypoint": "a.b:c"},
        },
        "distillation: set only one of cloudModel and cloudEntrypoint",
    ),
    (
        {"model": {"name": "mlp", "front": "a:f", "back": "a:b"}},
        "model: set exactly one of name, entrypoint, and front with back",
    ),
    (
        {"model": {"front": "a:f"}},
        "model: front and back work only together; set both, or remove both",
    ),
    (
        {"mode": "split", "edges": EDGES, "model": {"front": "a:f", "back": "a:b", "cut": "3"}},
        "model: front and back say where the model is cut; remove cut",
    ),
    ({"mode": "split", "edges": [{"name": "cloud"}]}, "edges: the name cloud is the cloud pod's"),
    (
        {"mode": "split", "edges": [{"name": "e", "cpu": "2", "cpuLimit": "1"}]},
        "edges: cpuLimit must be at least cpu",
    ),
    (
        {"devices.0.frequency": {"minGHz": 2, "maxGHz": 1}},
        "frequency: minGHz must be at most maxGHz",
    ),
    (
        {"devices.0.uplink": {"trace": "lte", "mbps": 10}},
        "uplink/downlink: set only one of trace and mbps",
    ),
    ({"devices.0.downlink": {}}, "uplink/downlink: set trace, mbps or latencyMs"),
    (
        {"devices.0.energy": {"kappa": 1e-28, "table": [{"ghz": 1, "watts": 2}]}},
        "energy: set only one of kappa and table",
    ),
    (
        {"devices.0.energy": {"table": [{"ghz": 2, "watts": 3}, {"ghz": 1, "watts": 4}]}},
        "energy.table: watts must not fall when ghz rises",
    ),
    ({"devices.0.name": "cloud"}, "devices: the name cloud is the cloud pod's"),
    ({"devices.0.cpuAtMax": "0m"}, "must be a quantity of more than 0, such as 500m, 2 or 256Mi"),
    ({"devices.0.memory": 0}, "must be a quantity of more than 0, such as 500m, 2 or 256Mi"),
    ({"cloud.memory": "1 GB"}, "must be a quantity of more than 0, such as 500m, 2 or 256Mi"),
    ({"allocation.policyRef": "mine"}, "allocation: policyRef belongs to policy ppo only"),
    ({"allocation.online": True}, "allocation: online belongs to policy ppo only"),
    *REFUSED_BY_RULES,
]
FIELDS: list[tuple[Json, str]] = [
    ({"training.rounds": ABSENT}, "spec.training.rounds: Required value"),
    ({"devices": ABSENT}, "spec.devices: Required value"),
    ({"devices": []}, "spec.devices in body should have at least 1 items"),
    ({"devices": [{"name": "a"}, {"name": "a"}]}, 'spec.devices[1]: Duplicate value: {"name":"a"}'),
    (
        {"devices.0.energy": {"table": [{"ghz": 1, "watts": 2}, {"ghz": 1.0, "watts": 3}]}},
        "spec.devices[0].energy.table[1]: Duplicate value",
    ),
    ({"devices.0.name": "Fast_1"}, "spec.devices[0].name in body should match"),
    ({"devices.0.replicas": 0}, "spec.devices[0].replicas in body should be greater than or equal"),
    ({"devices.0.frequency": {"minGHz": 0, "maxGHz": 1}}, "should be greater than 0"),
    ({"devices.0.frequency": {"minGHz": 1, "maxGHz": 2400}}, "should be less than or equal to 10"),
    ({"training.rounds": 0}, "spec.training.rounds in body should be greater than or equal to 1"),
    ({"training.rounds": "many"}, "spec.training.rounds in body must be of type integer"),
    ({"training.momentum": 1}, "spec.training.momentum in body should be less than 1"),
    ({"training.learningRate": 0}, "spec.training.learningRate in body should be greater than 0"),
    ({"participation.fraction": 1.5}, "in body should be less than or equal to 1"),
    ({"strategy.name": "fedavgg"}, 'spec.strategy.name: Unsupported value: "fedavgg"'),
    ({"mode": "p2p"}, '"federated", "hierarchical", "split"'),
    ({"data.name": "mnist"}, 'supported values: "fashion-mnist"'),
    ({"training.round": 3}, 'unknown field "spec.training.round"'),
    ({"devices.0.cpu": "1"}, 'unknown field "spec.devices[0].cpu"'),
    ({"suspend": "yes"}, "spec.suspend in body must be of type boolean"),
    ({"startDeadlineSeconds": 0}, "spec.startDeadlineSeconds in body should be greater than"),
    ({"telemetry": {"perDevice": "Auto"}}, '"auto", "always", "never"'),
    (
        {"telemetry": {"energyBudgetJoules": 0}},
        "spec.telemetry.energyBudgetJoules in body should be greater than 0",
    ),
    *REFUSED_BY_SCHEMA,
]


def all_messages(schema: Any) -> Iterator[str]:
    """The message of every rule in a schema."""
    if isinstance(schema, dict):
        for rule in schema.get("x-kubernetes-validations", []):
            yield rule["message"]
        for value in schema.values():
            yield from all_messages(value)


def job_manifest(spec: Json, *, name: str = "job") -> Json:
    """A FederatedJob as a user writes it."""
    return {
        "apiVersion": "lockstep.dev/v1alpha1",
        "kind": "FederatedJob",
        "metadata": {"name": name},
        "spec": spec,
    }


UNCHECKED = (
    "some validation rules were not checked because the object was invalid; correct the existing "
    "errors to complete validation"
)
# (fields, all that is said of them): several things that are wrong at once, or of the wrong type.
ODD: list[tuple[Json, list[str]]] = [
    (
        {"strategy.mu": 0.1, "mode": "split"},
        [
            "spec: Invalid value: mode hierarchical and mode split need at least one entry in "
            "edges",
            "spec.strategy: Invalid value: strategy: mu belongs to name fedprox only",
        ],
    ),
    (
        {"training.momentum": 1, "strategy.mu": 0.5},
        [
            "spec.training.momentum: Invalid value: 1: spec.training.momentum in body should be "
            "less than 1",
            "spec.strategy: Invalid value: strategy: mu belongs to name fedprox only",
        ],
    ),
    (
        {"training.rounds": True, "training.batchSize": 0},
        [
            'spec.training.rounds: Invalid value: "boolean": spec.training.rounds in body must be '
            'of type integer: "boolean"',
            "spec.training.batchSize: Invalid value: 0: spec.training.batchSize in body should be "
            "greater than or equal to 1",
            UNCHECKED,
        ],
    ),
    (
        {"podTemplate": {"labels": {"aéb": "x"}}},
        [f"spec.podTemplate.labels: Invalid value: {OF_LABEL}"],
    ),
    ({"training.rounds": None}, ["spec.training.rounds: Required value", UNCHECKED]),
    (
        {"training": ABSENT, "model": ABSENT},
        ["spec.model: Required value", "spec.training: Required value", UNCHECKED],
    ),
    (
        {"a": 1, "training.b": 2, "training.rounds": 0},
        ['unknown field "spec.training.b"', 'unknown field "spec.a"'],
    ),
    (
        {"strategy.name": 5},
        [
            'spec.strategy.name: Invalid value: "integer": spec.strategy.name in body must be of '
            'type string: "integer"',
            "spec.strategy.name: Unsupported value: 5: supported values: "
            + ", ".join(f'"{name}"' for name in StrategyName),
            UNCHECKED,
        ],
    ),
    (
        {"podTemplate": {"labels": {str(number): "x" for number in range(40)}}},
        ["spec.podTemplate.labels: Too many: 40: must have at most 32 items", UNCHECKED],
    ),
    (
        {"devices": [{"name": "a"}] * 65},
        [
            "spec.devices: Too many: 65: must have at most 64 items",
            'spec.devices[1]: Duplicate value: {"name":"a"}',
            UNCHECKED,
        ],
    ),
    (
        {"devices.0.cpuAtMax": "abc", "devices.0.cpuAtStart": "2"},
        [
            'spec.devices[0]: Invalid value: "object": quantities must match the regular '
            "expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$' evaluating rule: devices: "
            "cpuAtStart must be at least cpuAtMax",
            'spec.devices[0].cpuAtMax: Invalid value: "abc": must be a quantity of more than 0, '
            "such as 500m, 2 or 256Mi",
        ],
    ),
    (
        {"training.learningRate": 2.5e-7, "training.momentum": 1.5, "devices.0.name": "é"},
        [
            "spec.training.momentum: Invalid value: 1.5: spec.training.momentum in body should be "
            "less than 1",
            'spec.devices[0].name: Invalid value: "é": spec.devices[0].name in body should match '
            "'^[a-z0-9]([-a-z0-9]*[a-z0-9])?$'",
        ],
    ),
    (
        {"training.learningRate": 1.5e25, "training.momentum": 1234567.5},
        [
            "spec.training.learningRate: Invalid value: 1.5e+25: spec.training.learningRate in "
            "body should be less than or equal to 1e+12",
            "spec.training.momentum: Invalid value: 1.2345675e+06: spec.training.momentum in body "
            "should be less than 1",
        ],
    ),
    (
        {"devices.0.energy": {"kappa": 1.5e13, "idleWatts": -2.5e-7}},
        [
            "spec.devices[0].energy.kappa: Invalid value: 15000000000000: "
            "spec.devices[0].energy.kappa in body should be less than or equal to 1000000000000",
            "spec.devices[0].energy.idleWatts: Invalid value: -2.5e-07: "
            "spec.devices[0].energy.idleWatts in body should be greater than or equal to 0",
        ],
    ),
]
