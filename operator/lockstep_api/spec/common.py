"""Types that several parts of the spec share."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field

from lockstep_api.nesting import not_too_deep

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=40)]
Entrypoint = Annotated[
    str, Field(pattern=r"^[A-Za-z_][\w]*(\.[A-Za-z_][\w]*)*:[A-Za-z_][\w]*$", max_length=200)
]
Positive = Annotated[float, Field(gt=0, le=1e12)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]
FreeForm = Annotated[
    dict[str, Any],
    Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True}),
    AfterValidator(not_too_deep),
]
