"""Values of a job's spec that Kubernetes would refuse of its pods, and odd ones that it takes.

The tests of the models and of the apiserver try each of them.
"""

import copy
from typing import Any

from lockstep_api.quantity import BYTES_MESSAGE, CORES_MESSAGE
from lockstep_api.spec.kubernetes import key_message

Json = dict[str, Any]

MINIMAL: Json = {
    "model": {"name": "mlp"},
    "data": {"name": "fashion-mnist"},
    "training": {"rounds": 3},
    "devices": [{"name": "all"}],
}
ABSENT = object()


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
]
# The apiserver's rules cannot afford to see these; the operator refuses them (Accepted=False).
REFUSED_BY_THE_OPERATOR: list[Json] = [
    {"devices.0.nodeSelector": {"data science": "x"}},
    {"podTemplate": {"labels": {"example..com/a": "x"}}},
    {"podTemplate": {"labels": {"example.-com/a": "x"}}},
]
TAKEN: list[Json] = [
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
]
