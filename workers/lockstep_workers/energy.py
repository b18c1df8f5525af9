"""Sums of energy that keep the sources apart; the cloud role and the devices use it."""

from lockstep_api.status import EnergyJoules


def add_energy(total: EnergyJoules, more: EnergyJoules) -> EnergyJoules:
    """Sums two figures source by source; a source that neither has stays empty."""

    def both(a: float | None, b: float | None) -> float | None:
        return None if a is None and b is None else (a or 0.0) + (b or 0.0)

    return EnergyJoules(
        model=both(total.model, more.model),
        cpu=both(total.cpu, more.cpu),
        measured=both(total.measured, more.measured),
    )
