"""CEL validation rules carried by the models of the CRD."""

from pydantic import ConfigDict

IMMUTABLE = "cannot be changed: delete the job and apply it anew"

Rule = tuple[str, str]


def rules(*pairs: Rule) -> ConfigDict:
    """A model configuration that adds (CEL rule, message) pairs to the model's schema."""
    return ConfigDict(
        json_schema_extra={
            "x-kubernetes-validations": [
                {"rule": rule, "message": message} for rule, message in pairs
            ]
        }
    )


def no_change(what: str, *, new: str, old: str) -> Rule:
    """A transition rule: `new` must equal `old`."""
    return (f"{new} == {old}", f"{what} {IMMUTABLE}")
