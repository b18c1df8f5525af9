"""What jobs may run, and how important they may be, as the operator's configuration says; pure.

`decide` asks before anything is placed. Without a word in the configuration every image is allowed,
and every PriorityClass but those of the cluster's own (`system-…`), which would push out other
people's pods.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from lockstep_api.spec import FederatedJobSpec, PodTemplate

SYSTEM = "system-"
"""Of PriorityClasses that Kubernetes itself has."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """Patterns, in which `*` stands for any characters; none: all, but for `SYSTEM` classes."""

    images: tuple[str, ...] = ()
    priority_classes: tuple[str, ...] = ()

    def refusals(self, spec: FederatedJobSpec) -> list[str]:
        """A sentence for each thing that a job asks for and may not have."""
        return [*self._image(spec.image), *self._priority(spec.pod_template or PodTemplate())]

    def _image(self, image: str | None) -> Iterable[str]:
        """The operator's own default is allowed."""
        if image is not None and self.images and not _fits(image, self.images):
            yield (
                f"image {image} is not allowed: this operator runs {_listed(self.images)}, "
                "or the default without spec.image (operator.allowedImages)"
            )

    def _priority(self, template: PodTemplate) -> Iterable[str]:
        name = template.priority_class_name
        if name is None or self._may_have(name):
            return
        instead = _listed(self.priority_classes) if self.priority_classes else "all but system-*"
        yield (
            f"podTemplate.priorityClassName {name} is not allowed: this operator allows {instead} "
            "(operator.allowedPriorityClasses)"
        )

    def _may_have(self, priority_class: str) -> bool:
        if self.priority_classes:
            return _fits(priority_class, self.priority_classes)
        return not priority_class.startswith(SYSTEM)


BY_DEFAULT = Allowed()
"""Where the configuration says nothing."""


def _fits(text: str, patterns: Iterable[str]) -> bool:
    return any(re.fullmatch(".*".join(map(re.escape, one.split("*"))), text) for one in patterns)


def _listed(patterns: Iterable[str]) -> str:
    return ", ".join(patterns)
