"""Differential privacy of a job's clients: how much one of them may show in the models."""

from typing import Annotated

from pydantic import Field

from lockstep_api.base import ApiModel

_DELTA_EXPONENT = 1.1


class Privacy(ApiModel):
    """Differential privacy for clients, in the central model: each update is clipped, and each
    round's mean gets Gaussian noise before anybody sees it. docs/privacy.md says what ε means."""

    clip_norm: Annotated[float, Field(gt=0, le=1e9)]
    """C: the largest L2 norm of what a client changes the model by in a round; a longer update is
    shortened to it."""
    noise_multiplier: Annotated[float, Field(ge=0.01, le=1e6)]
    """z: the standard deviation of the noise is z·C, over the number of updates in the mean."""
    delta: Annotated[float, Field(gt=0, le=0.1)] | None = None
    """δ: the chance that the bound ε does not hold; 1/devices^1.1 when empty, at most 0.1."""

    epsilon_budget: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """The most ε that the job may come to: it completes with the model of the last round within it
    (reason PrivacyBudgetSpent); no bound when empty."""

    def delta_of(self, clients: int) -> float:
        """δ of a job of so many clients."""
        return self.delta or min(0.1, clients**-_DELTA_EXPONENT)
