"""What a job's private rounds come to: ε by the accountant, and how many rounds its budget allows.

Called by `planning`, `status` and `support`. Pure.

Two neighbouring jobs differ in the data of one client, which in the other gives an update of no
change (the zero-out relation: Kairouz et al. 2021, "Practical and private (deep) learning without
sampling or shuffling", section 2). Who takes part is told in the open (status, history, metrics),
so that nothing is gained by drawing participants, and the number of updates by which the sum is
divided tells nothing. A model in which the client's update is, is then one Gaussian mechanism of
sensitivity C and noise z·C, of k of them the composition is one of z/√k (Dong, Roth, Su 2019,
corollary 3.3), of which the accountant has ε exactly (Balle, Wang 2018). Models without the
client's update cost it nothing.
"""

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

from lockstep_api.privacy import LedgerMark, PrivacyPlan
from lockstep_api.spec import Clustering, FederatedJobSpec, Mode, Privacy
from lockstep_api.status import PrivacyState

MOST_ROUNDS = 2**31 - 1


def load_accountant() -> None:
    """Loads what reckons ε, which takes seconds and 90 MB where nobody has yet."""
    import dp_accounting  # noqa: F401, PLC0415 - few jobs ask


@lru_cache(maxsize=1024)
def epsilon_of(noise_multiplier: float, delta: float, *, rounds: int) -> float:
    """ε of a client whose updates are in so many models."""
    from dp_accounting import get_epsilon_gaussian  # noqa: PLC0415 - few jobs ask

    if rounds == 0:
        return 0.0
    return float(get_epsilon_gaussian(noise_multiplier / rounds**0.5, delta))


@lru_cache(maxsize=1024)
def rounds_within(noise_multiplier: float, delta: float, *, budget: float) -> int:
    """The most models that a client's updates may be in."""
    enough, too_many = 0, 1
    while epsilon_of(noise_multiplier, delta, rounds=too_many) <= budget:
        enough, too_many = too_many, 2 * too_many
        if enough > MOST_ROUNDS:
            return MOST_ROUNDS
    while too_many - enough > 1:
        middle = (enough + too_many) // 2
        fits = epsilon_of(noise_multiplier, delta, rounds=middle) <= budget
        enough, too_many = (middle, too_many) if fits else (enough, middle)
    return enough


def spent(privacy: Privacy, *, clients: int, rounds: int) -> float:
    """ε of a job of so many clients, of which one is in `rounds` models, and none in more."""
    return epsilon_of(privacy.noise_multiplier, privacy.delta_of(clients), rounds=rounds)


def most_rounds(privacy: Privacy, *, clients: int) -> int | None:
    """How many models a client's updates may be in; None: there is no budget."""
    if (budget := privacy.epsilon_budget) is None:
        return None
    return rounds_within(privacy.noise_multiplier, privacy.delta_of(clients), budget=budget)


def more_of(known: int | None, told: int | None) -> int | None:
    """The count of a job's rounds by two that may know it; ε never goes down."""
    return max((one for one in (known, told) if one is not None), default=None)


@dataclass(frozen=True, slots=True)
class Counted:
    """What is said of a job's account."""

    rounds: int = 0
    """Models that the updates of a client are in, of that of which most are."""
    ledger: LedgerMark | None = None
    """Which ledger says so; None: nobody has said."""


NOTHING = Counted()
"""Nobody has said anything yet."""


def is_behind(told: LedgerMark | None, known: LedgerMark | None) -> bool:
    """Whether it is an older state of the ledger that is known, or another one in its place.

    One that was begun anew stays behind until it has taken in what was known of the one before. The
    count of the client of which most are does not tell: another one's may have grown since.
    """
    if told is None or known is None:
        return False
    if told.ledger != known.ledger:
        return told.models <= known.models
    return told.models < known.models


def newer_of(known: LedgerMark | None, told: LedgerMark | None) -> LedgerMark | None:
    """What is known of a job's ledger once one more was told."""
    return known if told is None or is_behind(told, known) else told


def ledger_of(privacy: PrivacyState | None) -> LedgerMark | None:
    """Which ledger a job's status knows."""
    if privacy is None or privacy.ledger is None:
        return None
    # Not validated: whatever stands in a status is compared, and nothing else.
    return LedgerMark.model_construct(ledger=privacy.ledger, models=privacy.models or 0)


def privacy_plan(
    spec: FederatedJobSpec, *, told: Counted, known: Collection[Counted]
) -> PrivacyPlan | None:
    """What a cloud pod needs to know of its account; None: the job does not hide its clients.

    Args:
        spec: of the job.
        told: what the cloud pod says.
        known: what it or its status have said before. If that was more, its account is lost with
            its volume, or an older one has come back with that, and perhaps a model is missing that
            was told to nobody but devices.
    """
    if (privacy := spec.privacy) is None:
        return None
    most = max([told.rounds, *(one.rounds for one in known)])
    ahead = [one.ledger for one in known if is_behind(told.ledger, one.ledger)]
    lost = most > told.rounds or bool(ahead)
    clients, rounds = spec.clients(), most + lost
    return PrivacyPlan(
        rounds=rounds,
        epsilon=spent(privacy, clients=clients, rounds=rounds),
        epsilon_after=spent(privacy, clients=clients, rounds=rounds + 1),
        delta=privacy.delta_of(clients),
        most_rounds=most_rounds(privacy, clients=clients),
        least_rounds=rounds if lost else 0,
        least_models=max((one.models + 1 for one in ahead if one is not None), default=0),
    )


def privacy_state(spec: FederatedJobSpec, counted: Counted) -> PrivacyState | None:
    """The account as the status has it, after so many rounds that count."""
    if (privacy := spec.privacy) is None:
        return None
    clients, ledger = spec.clients(), counted.ledger
    return PrivacyState(
        epsilon=spent(privacy, clients=clients, rounds=counted.rounds),
        delta=privacy.delta_of(clients),
        rounds=counted.rounds,
        ledger=None if ledger is None else ledger.ledger,
        models=None if ledger is None else ledger.models,
        label_epsilon=label_epsilon(spec),
    )


def label_epsilon(spec: FederatedJobSpec) -> float | None:
    """ε of one telling of a device's label histogram, for the label of one example; None: none is
    told.

    Another label changes two counts by one, each with Laplace noise of scale 1/clustering.epsilon.
    That is of an example, not of a client: the two are never added up.
    """
    if spec.mode is Mode.FEDERATED:
        return None
    clustering = spec.clustering or Clustering()
    told = clustering.tells_labels(private=spec.privacy is not None)
    return 2 * clustering.epsilon if told else None


def too_small_a_budget(spec: FederatedJobSpec) -> str | None:
    """Why a job cannot play a single round."""
    privacy, clients = spec.privacy, spec.clients()
    if privacy is None or most_rounds(privacy, clients=clients) != 0:
        return None
    one = spent(privacy, clients=clients, rounds=1)
    return (
        f"privacy.epsilonBudget {privacy.epsilon_budget:g} is less than one round costs"
        f" (ε {one:.4g} at δ {privacy.delta_of(clients):.2g}): use a larger"
        f" noiseMultiplier than {privacy.noise_multiplier:g}, or a larger budget"
    )
