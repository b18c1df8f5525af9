"""Where a model is cut: the shortest step within the devices' bounds, chosen once."""

from typing import Any

import pytest

from lockstep_operator.core.cuts import choose_cut, cut_seconds, flops_share
from lockstep_operator.core.split_steps import CORE_FLOPS, PROCESS_BYTES, most_examples
from lockstep_operator.errors import UnfitRequest
from tests.support.tiered import CNN, group, split_job

SLOW_LINK: dict[str, Any] = {"uplink": {"mbps": 20}, "downlink": {"mbps": 20}}


def test_auto_takes_the_layer_after_the_pooling_not_the_one_before_it() -> None:
    chosen = choose_cut(split_job(group(**SLOW_LINK)), CNN)
    assert chosen.layer == "3"
    assert chosen.seconds["3"] < chosen.seconds["2"] == pytest.approx(chosen.seconds["0"], rel=0.01)
    assert "the shortest step" in chosen.why
    assert "against" in chosen.why
    assert chosen.warning is None


def test_a_layer_beyond_the_bound_of_operations_is_refused_with_both_numbers() -> None:
    chosen = choose_cut(split_job(), CNN)
    assert chosen.refused.keys() == {"4", "7"}
    assert "0.99" in chosen.refused["4"]
    assert "split.maxDeviceFlops is 0.5" in chosen.refused["4"]


def test_the_bound_of_operations_may_be_raised_where_that_shortens_the_step() -> None:
    devices = group(cores="4", uplink={"mbps": 1}, downlink={"mbps": 1})
    assert choose_cut(split_job(devices), CNN).layer == "3"
    assert choose_cut(split_job(devices, split={"maxDeviceFlops": 1}), CNN).layer == "7"


def test_the_slowest_kind_of_device_decides() -> None:
    fast, slow = group("fast"), group("slow", uplink={"mbps": 2}, downlink={"mbps": 2})
    equal: dict[str, Any] = {"batches": "equal"}
    alone = cut_seconds(split_job(fast, split=equal), CNN[2])
    together = cut_seconds(split_job(fast, slow, split=equal), CNN[2])
    sent_s = 32 * (2 * 3136 * 2 + 4) * 8e-6 / 2
    assert together == pytest.approx(sent_s, rel=0.05)
    assert alone < together / 20


def test_seconds_are_front_link_latency_and_back_half() -> None:
    way: dict[str, Any] = {"mbps": 10, "latencyMs": 5}
    spec = split_job(group(cores="500m", replicas=3, uplink=way, downlink=way),
                     split={"wireDtype": "float32", "frontUpdate": "round"})  # fmt: skip
    cut = CNN[2]
    front_s = 32 * cut.front_flops / (0.5 * CORE_FLOPS)
    sent_s = 32 * (2 * 3136 * 4 + 4) * 8e-6 / 10
    back_s = 3 * 32 * cut.back_flops / (2 * 2 * CORE_FLOPS)
    assert cut_seconds(spec, cut) == pytest.approx(front_s + sent_s + 0.01 + back_s)
    every_step = split_job(group(cores="500m", replicas=3, uplink=way, downlink=way),
                           split={"wireDtype": "float32"})  # fmt: skip
    fronts_s = 2 * 448 * 4 * 8e-6 / 10
    assert cut_seconds(every_step, cut) == pytest.approx(cut_seconds(spec, cut) + 0.01 + fronts_s)


def test_a_device_trains_in_one_thread_however_many_cores_it_has() -> None:
    one, four = (cut_seconds(split_job(group(cores=cores)), CNN[2]) for cores in ("1", "4"))
    assert one == four


def test_a_batch_that_does_not_fit_into_memory_is_refused_with_numbers() -> None:
    room = 10 << 20
    small = group("small", memory=str(PROCESS_BYTES + room))
    assert most_examples(CNN[2], split_job(small).devices[0]) == pytest.approx(
        room / (110_000 + 2 * 4 * 3136), rel=0.01
    )
    spec = split_job(small, training={"rounds": 1, "batchSize": 96, "localSteps": {"fixed": 1}})
    chosen = choose_cut(spec, CNN)
    assert chosen.layer == "0"
    assert "small" in chosen.refused["3"]
    assert "77 examples" in chosen.refused["3"]


def test_nothing_that_fits_is_said_with_what_each_layer_lacks() -> None:
    with pytest.raises(UnfitRequest, match=r"no layer fits.*0: devices would have 0\.08.*0\.01"):
        choose_cut(split_job(split={"maxDeviceFlops": 0.01}), CNN)
    with pytest.raises(UnfitRequest, match="the model has no layers"):
        choose_cut(split_job(), [])


def test_a_layer_that_is_named_is_taken_and_what_auto_had_against_it_is_told() -> None:
    chosen = choose_cut(split_job(model={"name": "cnn", "cut": "4"}), CNN)
    assert (chosen.layer, chosen.why) == ("4", "model.cut names it")
    assert chosen.warning is not None
    assert "0.99" in chosen.warning


def test_a_name_that_no_layer_has_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(UnfitRequest, match=r"no layer conv9 .* after 0, 2, 3, 4, 7"):
        choose_cut(split_job(model={"name": "cnn", "cut": "conv9"}), CNN)


def test_halves_of_ones_own_are_cut_between_them_whatever_their_share() -> None:
    spec = split_job(model={"front": "a.b:front", "back": "a.b:back"})
    chosen = choose_cut(spec, [CNN[4].model_copy(update={"layer": "front"})])
    assert (chosen.layer, chosen.why) == ("front", "model.front ends here")


def test_what_was_chosen_once_stays() -> None:
    spec = split_job(group(**SLOW_LINK))
    assert choose_cut(spec, CNN).layer != "2"
    kept = choose_cut(spec, CNN, kept="2")
    assert (kept.layer, kept.why) == ("2", "the job was cut here before")


def test_shares_of_a_model_without_operations_are_none() -> None:
    nothing = CNN[0].model_copy(update={"front_flops": 0.0, "back_flops": 0.0})
    assert flops_share(nothing) == 0.0
