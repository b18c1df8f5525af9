"""Methods without learning. Each maps an observation to (E, N) frequencies in GHz."""

from collections.abc import Callable

from lockstep_allocator.devices import Array
from lockstep_allocator.equalize import equalize, levelled
from lockstep_allocator.fleet import Method
from lockstep_allocator.observation import Observation


def maximum(observation: Observation) -> Array:
    """Everyone at the highest frequency."""
    return observation.devices.max_ghz


def static(observation: Observation) -> Array:
    """The equaliser for each device's mean bandwidth over all that is known."""
    return _equalized(observation, observation.mean_mbps)


def equalize_last(observation: Observation) -> Array:
    """The equaliser for the bandwidth of the last round's upload."""
    return _equalized(observation, observation.last_mbps)


def equalize_10s(observation: Observation) -> Array:
    """The equaliser for the mean bandwidth over the previous 10 s (CN113312169B [0067])."""
    return _equalized(observation, observation.recent_mbps)


def equalize_steady(observation: Observation) -> Array:
    """The equaliser for a bandwidth that no moment decides; for steps that were planned for it."""
    return _equalized(observation, observation.steady_mbps)


def slack(share: float, caution: float) -> Method:
    """The equaliser that aims at `share`·T and fears variation: f = W/(share·T - û·(1 + z·cv))."""

    def method(observation: Observation) -> Array:
        devices = observation.devices
        newest = observation.newest_mbps
        variation = newest.std(-1) / newest.mean(-1)
        upload_s = observation.upload_s(observation.recent_mbps)
        finish_s = equalize(devices, upload_s).finish_s
        return devices.frequency(share * finish_s - upload_s * (1 + caution * variation))

    return method


SLACK_SHARES = (0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 1.0, 1.03)
SLACK_CAUTIONS = (0.0, 0.3, 0.6, 1.0)

BASELINES: dict[str, Callable[[Observation], Array]] = {
    "max": maximum,
    "static": static,
    "equalize": equalize_last,
    "equalize-10s": equalize_10s,
}


def _equalized(observation: Observation, mbps: Array) -> Array:
    return levelled(observation.devices, observation.upload_s(mbps))
