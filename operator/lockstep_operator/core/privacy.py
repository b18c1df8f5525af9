"""What a job's private rounds come to: ε by the accountant. Pure.

Two neighbouring jobs differ in the data of one client, which in the other gives an update of no
change (the zero-out relation: Kairouz et al. 2021, "Practical and private (deep) learning without
sampling or shuffling", section 2). Who takes part is told in the open (status, history, metrics),
so that nothing is gained by drawing participants, and the number of updates by which the sum is
divided tells nothing. A model in which the client's update is, is then one Gaussian mechanism of
sensitivity C and noise z·C, of k of them the composition is one of z/√k (Dong, Roth, Su 2019,
corollary 3.3), of which the accountant has ε exactly (Balle, Wang 2018). Models without the
client's update cost it nothing.
"""

from functools import lru_cache

from lockstep_api.spec import Privacy


@lru_cache(maxsize=1024)
def epsilon_of(noise_multiplier: float, delta: float, *, rounds: int) -> float:
    """ε of a client whose updates are in so many models."""
    from dp_accounting import get_epsilon_gaussian  # noqa: PLC0415 - few jobs ask

    if rounds == 0:
        return 0.0
    return float(get_epsilon_gaussian(noise_multiplier / rounds**0.5, delta))


def spent(privacy: Privacy, *, clients: int, rounds: int) -> float:
    """ε of a job of so many clients, of which one is in `rounds` models, and none in more."""
    return epsilon_of(privacy.noise_multiplier, privacy.delta_of(clients), rounds=rounds)
