"""Split training in one process: halves, a cluster's steps, and that it is central SGD."""

from collections import OrderedDict
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from lockstep_api.spec import FrontUpdate
from lockstep_workers.errors import InvalidJob
from lockstep_workers.learning.front import batch_at
from lockstep_workers.learning.halves import cut_shape, halves, layer_names
from lockstep_workers.learning.parameters import flatten
from lockstep_workers.learning.strategy import Vector
from lockstep_workers.learning.training import Sgd
from lockstep_workers.models import cnn, mlp
from lockstep_workers.residual import resnet10
from tests.support.split_training import Played, Scene, central, some_examples, whole

SGD = Sgd(learning_rate=0.05, momentum=0.9, batch_size=8)
SHAPES = {"cnn": (1, 12, 12), "mlp": (30,), "resnet10": (3, 8, 8)}
CUTS = {"cnn": "3", "mlp": "1", "resnet10": "stage1"}


def seeded(build: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    def made() -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return build()

    return made


MODULES = {
    "cnn": seeded(lambda: cnn(channels=4, height=12, width=12)),
    "mlp": seeded(lambda: mlp(hidden=12, inputs=30)),
    "resnet10": seeded(lambda: resnet10(channels=8, height=8, width=8)),
}


def scene(name: str = "cnn", *, sizes: tuple[int, ...] = (20, 20, 20), batch: int = 8) -> Scene:
    """Clients of so many examples; batches are equal."""
    clients = {
        f"d-{i}": some_examples(size, shape=SHAPES[name], seed=i) for i, size in enumerate(sizes)
    }
    return Scene(MODULES[name], CUTS[name], clients, dict.fromkeys(clients, batch), SGD)


def unequal(name: str = "cnn") -> Scene:
    """Clients of unequal numbers of examples, with batches that are unequal otherwise."""
    made = scene(name, sizes=(30, 11, 20))
    batches = {"d-0": 3, "d-1": 9, "d-2": 5}
    return Scene(made.module, made.cut, made.clients, batches, made.sgd)


def relative(found: Vector, wanted: Vector, *, start: Vector) -> float:
    """How far two trainings differ, as a share of how far they went."""
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted - start))


def initial(of: Scene) -> Vector:
    return of.model().vector.numpy().copy()


# -- one cluster is central SGD --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cnn", "mlp", "resnet10"])
@pytest.mark.parametrize("of", [scene, unequal])
def test_one_cluster_is_central_sgd(of: Callable[[str], Scene], name: str) -> None:
    """Over several rounds with momentum; unequal clients: on the weighted loss."""
    made = of(name)
    played = Played(made)
    steps = 1 if name == "resnet10" else 4  # some processors' rounding grows a lot in its norms
    for round_number in (1, 2, 3):
        done = played.play(round_number, steps=steps)
    wanted = central(made, rounds=3, steps=steps)
    assert relative(whole(done.vectors), wanted, start=initial(made)) < 1e-5


def test_equal_clients_are_central_sgd_on_the_plain_mean_of_the_concatenated_batches() -> None:
    made = scene("mlp")
    played = Played(made)
    training = played.training(1)
    for client in played.devices:
        played.send(training, client, at=(1, 0))
    told = training.step(list(played.devices)).loss
    scores = played.halves.back(torch.from_numpy(training.activations))
    wanted = nn.functional.cross_entropy(scores, torch.from_numpy(training.labels))
    assert told == pytest.approx(wanted.item(), rel=1e-6)


def absent(step: int) -> list[str]:
    """The second device is away for two steps, and back for the last."""
    return ["d-0", "d-2"] if step in (1, 2) else ["d-0", "d-1", "d-2"]


@pytest.mark.parametrize("of", [scene, unequal])
def test_a_step_without_a_device_is_sgd_on_the_others_renormalised(
    of: Callable[[str], Scene],
) -> None:
    made = of("cnn")
    done = Played(made).play(1, steps=4, present=absent)
    wanted = central(made, rounds=1, steps=4, present=absent)
    assert relative(whole(done.vectors), wanted, start=initial(made)) < 1e-5
    assert (done.missed, done.steps) == (2, 4)
    assert done.clients == ("d-0", "d-1", "d-2")
    assert done.samples == 4 * sum(made.batches.values()) - 2 * made.batches["d-1"]


def test_rows_of_an_absent_device_are_not_read_and_get_no_gradient() -> None:
    made = unequal("cnn")
    results = []
    for rubbish in (0.0, float("nan")):
        played = Played(made)
        training = played.training(1)
        for client in ("d-0", "d-2"):
            played.send(training, client, at=(1, 0))
        training.activations[training.rows("d-1")] = rubbish
        training.labels[training.rows("d-1")] = 10**6
        step = training.step(["d-0", "d-2"])
        assert (step.gradients[training.rows("d-1")] == 0).all()
        results.append((step.loss, whole(training.result().vectors).tobytes()))
    assert results[0] == results[1]


def test_rows_of_those_present_go_on_to_the_cloud_with_what_they_count() -> None:
    """n_i / b_i: shares of clusters with other examples fit together."""
    made = unequal("mlp")
    played = Played(made)
    training = played.training(1)
    for client in played.devices:
        played.send(training, client, at=(1, 0))
    pool = training.batch(["d-2", "d-0"])
    rows = [training.rows("d-0"), training.rows("d-2")]
    assert (pool.activations == np.concatenate([training.activations[r] for r in rows])).all()
    assert (pool.labels == np.concatenate([training.labels[r] for r in rows])).all()
    assert pool.weights == pytest.approx([30 / 3] * 3 + [20 / 5] * 5)
    assert training.batch(list(played.devices)).weights == pytest.approx(
        [30 / 3] * 3 + [11 / 9] * 9 + [20 / 5] * 5
    )


def test_a_device_that_is_lost_between_the_passes_leaves_the_front_to_the_others() -> None:
    """The front's step is then that of the others' loss, with their weights."""
    made = unequal("mlp")

    def front_after(leaves: bool) -> Vector:
        played = Played(made)
        training = played.training(1)
        here = ["d-0", "d-2"]
        for client in [*here, "d-1"]:
            played.send(training, client, at=(1, 0))
        gradients = training.step([*here, "d-1"] if leaves else here).gradients
        for client in here:
            part = played.devices[client].backward(gradients[training.rows(client)])
            training.add_front(client, part)
        return training.finish_step(here).copy()

    assert front_after(leaves=True) == pytest.approx(front_after(leaves=False), rel=1e-4, abs=1e-7)


def test_a_result_stays_as_it_is_when_further_steps_are_done() -> None:
    played = Played(scene("mlp"))
    training = played.training(1)
    results = []
    for step in range(2):
        for client, device in played.devices.items():
            device.use(training.front)
            played.send(training, client, at=(1, step))
        gradients = training.step(list(played.devices)).gradients
        for client, device in played.devices.items():
            training.add_front(client, device.backward(gradients[training.rows(client)]))
        training.finish_step(list(played.devices))
        done = training.result()
        results.append((done.vectors, whole(done.vectors).copy()))
    assert (whole(results[0][0]) == results[0][1]).all()
    assert (results[0][1] != results[1][1]).any()


def test_without_any_answer_the_front_stays_and_the_next_step_goes_on() -> None:
    played = Played(scene("mlp"))
    training = played.training(1)
    before = training.front.copy()
    for client in played.devices:
        played.send(training, client, at=(1, 0))
    training.step(list(played.devices))
    assert (training.finish_step([]) == before).all()


# -- the same whatever comes when ------------------------------------------------------------------


@pytest.mark.parametrize("update", list(FrontUpdate))
def test_the_order_in_which_devices_answer_changes_no_bit(update: FrontUpdate) -> None:
    ways = [
        whole(Played(unequal(), update=update).play(1, steps=3, backwards=backwards).vectors)
        for backwards in (False, True)
    ]
    assert ways[0].tobytes() == ways[1].tobytes()


def test_a_step_that_a_device_repeats_changes_no_bit() -> None:
    """A device that starts anew in the middle of a round has the same batch again."""
    made, results = unequal(), []
    for repeats in (1, 3):
        played = Played(made)
        training = played.training(1)
        for step in range(3):
            for client, device in played.devices.items():
                for _ in range(repeats):
                    device.use(training.front)
                    played.send(training, client, at=(1, step))
            gradients = training.step(list(played.devices)).gradients
            for client in list(played.devices):
                if repeats > 1:
                    starts_anew(played, client, at=(1, step), front=training.front)
                mine = gradients[training.rows(client)]
                training.add_front(client, played.devices[client].backward(mine))
            training.finish_step(list(played.devices))
        results.append(whole(training.result().vectors).tobytes())
    assert results[0] == results[1]


def starts_anew(played: Played, client: str, *, at: tuple[int, int], front: Vector) -> None:
    """A device's process ends between its passes; the next knows the step and the front only."""
    played.devices[client] = device = Played(played.scene).devices[client]
    device.use(front)
    device.forward(*at, batch_size=played.scene.batches[client])


def test_batches_depend_on_step_and_seed_alone_and_use_every_example_before_one_again() -> None:
    place = (1, 2, 3)
    batches = [batch_at(10, step, batch_size=4, seed=place) for step in range(5)]
    assert sorted(np.concatenate(batches)[:10]) == list(range(10))
    assert sorted(np.concatenate(batches)[10:]) == list(range(10))
    assert (batch_at(10, 3, batch_size=4, seed=place) == batches[3]).all()
    others = [batch_at(10, step, batch_size=4, seed=(1, 2, 4)) for step in range(5)]
    assert np.concatenate(others).tolist() != np.concatenate(batches).tolist()


def test_a_batch_larger_than_what_a_client_holds_uses_its_examples_evenly() -> None:
    chosen = batch_at(3, 1, batch_size=8, seed=(0, 0, 1))
    assert len(chosen) == 8
    assert set(np.bincount(chosen, minlength=3)) <= {2, 3}


# -- frontUpdate round -----------------------------------------------------------------------------


def test_with_front_update_round_devices_step_their_own_front_and_the_edge_averages_them() -> None:
    made = unequal("mlp")
    played = Played(made, update=FrontUpdate.ROUND)
    done = played.play(1, steps=3)
    own = {client: device.front for client, device in played.devices.items()}
    assert not np.array_equal(own["d-0"], own["d-1"])
    total = sum(len(x) for x in made.clients.values())
    mean = sum(np.float64(len(x) / total) * own[c] for c, x in made.clients.items())
    assert done.vectors.front == pytest.approx(mean, rel=1e-6)


def test_one_device_with_front_update_round_is_central_sgd() -> None:
    """With one front only there is nothing to drift apart."""
    made = scene("cnn", sizes=(20,))
    played = Played(made, update=FrontUpdate.ROUND)
    for round_number in (1, 2):
        done = played.play(round_number, steps=4)
    wanted = central(made, rounds=2, steps=4)
    assert relative(whole(done.vectors), wanted, start=initial(made)) < 1e-5


def test_a_front_that_is_missing_at_the_end_of_a_round_leaves_the_mean_to_the_others() -> None:
    training = Played(unequal("mlp"), update=FrontUpdate.ROUND).training(1)
    n_front = training.front.size
    training.add_front("d-0", np.full(n_front, 1.0, np.float32))
    training.add_front("d-2", np.full(n_front, 2.0, np.float32))
    assert training.finish_round(["d-0", "d-2"]) == pytest.approx((30 * 1 + 20 * 2) / 50)


# -- where a model is cut --------------------------------------------------------------------------


def test_a_model_is_cut_after_layers_with_trained_parameters_on_both_sides() -> None:
    assert layer_names(cnn()) == ["0", "1", "2", "3", "4", "5", "6", "7", "8"]
    assert layer_names(mlp()) == ["1", "2"]
    assert layer_names(resnet10()) == ["stem", "stage1", "stage2", "stage3", "stage4"]
    two = nn.Sequential(OrderedDict(front=nn.Linear(3, 2), back=nn.Linear(2, 2)))
    assert layer_names(two) == ["front"]


def test_the_halves_parameters_are_the_parts_of_the_models_vector() -> None:
    model = flatten(cnn())
    cut = halves(model, "3")
    n_front = sum(p.numel() for p in cut.front.parameters())
    assert cut.n_front == n_front == 448
    model.vector[:n_front] = 1.0
    model.vector[n_front:] = 2.0
    assert all((p == 1).all() for p in cut.front.parameters())
    assert all((p == 2).all() for p in cut.back.parameters())


def test_a_layer_that_is_used_twice_is_cut_at_the_right_place() -> None:
    relu = nn.ReLU()
    module = nn.Sequential(nn.Linear(3, 4), relu, nn.Linear(4, 5), relu, nn.Linear(5, 2))
    cut = halves(flatten(module), "3")
    x = torch.ones(2, 3)
    assert cut_shape(cut.front, [3]) == [5]
    assert torch.equal(cut.back(cut.front(x)), module(x))


def test_tied_layers_are_not_cut_apart() -> None:
    tied = nn.Linear(4, 4)
    module = nn.Sequential(nn.Linear(3, 4), tied, nn.ReLU(), tied, nn.Linear(4, 2))
    assert layer_names(module) == ["0", "3"]


def test_a_wrong_cut_is_told_with_those_that_there_are() -> None:
    with pytest.raises(InvalidJob, match=r"'7' is no layer to cut after: use auto, or one of 1, 2"):
        halves(flatten(mlp()), "7")


def test_a_model_that_is_no_chain_is_told_what_to_be() -> None:
    with pytest.raises(InvalidJob, match=r"is a Linear, and mode split cuts an nn\.Sequential"):
        halves(flatten(nn.Linear(3, 2)), "0")


def test_a_chain_without_a_place_to_cut_is_told_so() -> None:
    module = nn.Sequential(nn.Flatten(), nn.Linear(3, 2))
    with pytest.raises(InvalidJob, match="after none of its layers"):
        halves(flatten(module), "0")


def test_a_front_that_gives_no_activations_of_each_example_is_refused() -> None:
    class Pair(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x, x

    class Mean(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean(dim=0)

    for odd, said in ((Pair(), "a tuple, not a tensor"), (Mean(), "values of shape")):
        with pytest.raises(InvalidJob, match=said):
            cut_shape(nn.Sequential(nn.Linear(3, 4), odd), [3])


def test_a_half_keeps_its_own_values_whatever_becomes_of_the_model() -> None:
    played = Played(scene("mlp"))
    device = played.devices["d-0"]
    before = device.front.copy()
    with torch.no_grad():
        played.model.vector.fill_(7.0)
    assert (device.front == before).all()


def test_what_the_halves_draw_is_drawn_by_the_seed() -> None:
    """Dropout on both sides of the cut: no generator of the process has a say."""

    def dropping() -> nn.Module:
        return nn.Sequential(
            nn.Linear(30, 12), nn.Dropout(0.5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(12, 10)
        )

    made = scene("mlp")
    made = Scene(seeded(dropping), "2", made.clients, made.batches, made.sgd)
    results = []
    for process in (1, 2):
        torch.manual_seed(process)
        results.append(whole(Played(made).play(1, steps=3).vectors).tobytes())
    assert results[0] == results[1]


def test_running_statistics_are_refused_on_both_sides_of_the_cut() -> None:
    def normed() -> nn.Module:
        return nn.Sequential(
            nn.Linear(30, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.BatchNorm1d(12), nn.Linear(12, 10)
        )

    made = scene("mlp")
    for cut in ("0", "1"):
        own = Scene(seeded(normed), cut, made.clients, made.batches, made.sgd)
        with pytest.raises(InvalidJob, match="use GroupNorm"):
            Played(own).play(1, steps=1)
