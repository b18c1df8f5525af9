"""What Kubernetes itself takes of a pod's fields, so that a wrong one is refused with the job.

`pods` and `job` use these types. Each takes what the apiserver (or, of images, the kubelet) takes:
a value that is refused here would be refused of the pods, long after the job was applied. Keys of
maps are checked by the apiserver only as far as the cost of its rules allows: what it lets pass
the operator refuses (condition Accepted).
"""

import re
from typing import Annotated, Any

from pydantic import AfterValidator, Field

_HOST = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_ANY_HOST = "[A-Za-z0-9]([-A-Za-z0-9]*[A-Za-z0-9])?"
_WORD = "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
SUBDOMAIN = rf"{_HOST}(\.{_HOST})*"
_ANY_SUBDOMAIN = rf"{_ANY_HOST}(\.{_ANY_HOST})*"
LABEL_KEY = f"^({SUBDOMAIN}/)?{_WORD}$"
ANNOTATION_KEY = f"^({_ANY_SUBDOMAIN}/)?{_WORD}$"
LABEL_VALUE = f"^({_WORD})?$"
_SHORT_PREFIX = "^([^/]{1,253}/)?[^/]*$"
_ROUGHLY = r"^([X]([-X.]{0,251}[X])?/)?[A-Za-z0-9]([-\w.]{0,61}[A-Za-z0-9])?$"
"""A key but for dots side by side in its prefix: each character more costs the apiserver."""
_MOST_ENTRIES = 32
MOST_OF_ANNOTATIONS = 16 << 10
"""Characters of all together: each of a job's sets of pods repeats them, and there may be 129."""
_AnnotationValue = Annotated[str, Field(max_length=MOST_OF_ANNOTATIONS)]

_DOMAIN = rf"({_ANY_SUBDOMAIN}|\[[a-fA-F0-9:]+\])(:[0-9]+)?"
_PATH = r"[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*"
_DIGEST = "[A-Za-z][A-Za-z0-9]*([-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
IMAGE = rf"^({_DOMAIN}/)?{_PATH}(/{_PATH})*(:[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(@{_DIGEST})?$"

ResourceName = Annotated[str, Field(pattern=f"^{SUBDOMAIN}$", max_length=253)]
"""The name of most objects: a DNS-1123 subdomain."""
ClassName = Annotated[str, Field(pattern=f"^({SUBDOMAIN})?$", max_length=253)]
"""The name of a class; empty as Kubernetes has it."""
Image = Annotated[str, Field(pattern=f"^$|{IMAGE}", max_length=512)]
"""The reference of an image, as a container runtime reads it; empty: none."""
TaintKey = Annotated[str, Field(pattern=f"^$|{LABEL_KEY}", max_length=317)]
LabelValue = Annotated[str, Field(pattern=LABEL_VALUE, max_length=63)]


def key_message(what: str) -> str:
    return (
        f"the key of {what} is up to 63 letters, digits, -, _ and . between two letters or digits, "
        "with a DNS name and / before it or not"
    )


def _keys(pattern: str, message: str) -> AfterValidator:
    """Refuses other keys of a map."""

    def check(entries: dict[str, str]) -> dict[str, str]:
        for key in entries:
            if not re.search(pattern, key) or not re.search(_SHORT_PREFIX, key):
                raise ValueError(f"{key!r}: {message}")
        return entries

    return AfterValidator(check)


def _short_together(entries: dict[str, str]) -> dict[str, str]:
    if (
        found := sum(len(key) + len(value) for key, value in entries.items())
    ) > MOST_OF_ANNOTATIONS:
        raise ValueError(
            f"annotations may have {MOST_OF_ANNOTATIONS:,} characters together, and these have"
            f" {found:,}: put large data into the image"
        )
    return entries


def _rule(prefix: str, message: str) -> Any:
    """Has the apiserver refuse them: a schema alone knows of values only."""
    rule = f"self.all(key, key.matches(r'{_ROUGHLY.replace('X', prefix)}'))"
    return Field(
        json_schema_extra={"x-kubernetes-validations": [{"rule": rule, "message": message}]}
    )


_OF_LABEL = key_message("a label")
_OF_ANNOTATION = key_message("an annotation")
Selector = Annotated[
    dict[str, LabelValue], Field(max_length=_MOST_ENTRIES), _keys(LABEL_KEY, _OF_LABEL)
]
"""Labels that a node needs. In a list the apiserver cannot afford to look at the keys."""
Labels = Annotated[Selector, _rule("a-z0-9", _OF_LABEL)]
Annotations = Annotated[
    dict[str, _AnnotationValue],
    Field(max_length=_MOST_ENTRIES),
    _keys(ANNOTATION_KEY, _OF_ANNOTATION),
    AfterValidator(_short_together),
    _rule("A-Za-z0-9", _OF_ANNOTATION),
]
