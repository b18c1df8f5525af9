"""The same federated averaging on Flower's simulation engine, in NumPy; `tests.bench.simulator`
runs it with the Python of an environment that has `flwr[simulation]`.

    BENCH_WORK=work.npz BENCH_OUT=rounds.jsonl python -c "import federated; federated.main()"

The folder is on PYTHONPATH, so that the processes of clients import it, too. Data, shares, initial
weights and the order of each mini-batch are those of the work file. One line a round goes out: its
number, when it ended, and the accuracy.
"""

import json
import os
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from flwr.simulation import run_simulation
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@cache
def work() -> dict[str, Any]:
    """The work, read once a process."""
    with np.load(os.environ["BENCH_WORK"]) as file:
        return {name: file[name] for name in file.files}


@cache
def examples(client: int) -> tuple[Floats, NDArray[np.int64]]:
    """What a client holds, as its model sees it."""
    given = work()
    ends = np.concatenate([[0], np.cumsum(given["sizes"])])
    mine = slice(ends[client], ends[client + 1])
    return seen(given["x"][mine]), given["y"][mine]


def seen(inputs: NDArray[Any]) -> Floats:
    """Inputs as the model sees them."""
    given = work()
    flat = inputs.reshape(len(inputs), -1).astype(np.float32)
    out: Floats = (flat - np.float32(given["mean"])) / np.float32(given["scale"])
    return out


def trained(weights: list[Floats], *, client: int, round_number: int) -> list[Floats]:
    """The weights after a client's local steps: (out, in) matrices and biases of two layers."""
    given, (x, y) = work(), examples(client)
    w1, b1, w2, b2 = (one.copy() for one in weights)
    rng = np.random.default_rng(np.random.SeedSequence((int(given["seed"]), client, round_number)))
    rate, size = np.float32(given["learning_rate"]), int(given["batch_size"])
    left = int(given["steps"])
    while left:
        order = rng.permutation(len(y))
        for start in range(0, len(y), size):
            chosen = order[start : start + size]
            inputs, hidden = x[chosen], np.maximum(x[chosen] @ w1.T + b1, 0)
            scores = hidden @ w2.T + b2
            back = np.exp(scores - scores.max(1, keepdims=True))
            back /= back.sum(1, keepdims=True)
            back[np.arange(len(chosen)), y[chosen]] -= 1
            back /= len(chosen)
            inner = (back @ w2) * (hidden > 0)
            w2 -= rate * (back.T @ hidden)
            b2 -= rate * back.sum(0)
            w1 -= rate * (inner.T @ inputs)
            b1 -= rate * inner.sum(0)
            left -= 1
            if not left:
                break
    return [w1, b1, w2, b2]


@cache
def held_out() -> tuple[Floats, NDArray[np.int64]]:
    """The examples that the server evaluates on."""
    return seen(work()["x_test"]), work()["y_test"]


def evaluated(number: int, arrays: ArrayRecord) -> MetricRecord:
    """Notes the accuracy after a round, and the time."""
    w1, b1, w2, b2 = arrays.to_numpy_ndarrays()
    x, y = held_out()
    right = (np.maximum(x @ w1.T + b1, 0) @ w2.T + b2).argmax(1) == y
    line = {"round": number, "at_s": time.monotonic(), "accuracy": float(right.mean())}
    with Path(os.environ["BENCH_OUT"]).open("a") as out:
        out.write(json.dumps(line) + "\n")
    return MetricRecord({"accuracy": line["accuracy"]})


def train(message: Message, context: Context) -> Message:
    """A client's part of a round."""
    client = int(context.node_config["partition-id"])
    number = int(message.content["config"]["server-round"])
    weights = message.content["arrays"].to_numpy_ndarrays()
    out = ArrayRecord(trained(weights, client=client, round_number=number))
    metrics = MetricRecord({"num-examples": int(work()["sizes"][client])})
    return Message(content=RecordDict({"arrays": out, "metrics": metrics}), reply_to=message)


def serve(grid: Grid, context: Context) -> None:
    """All rounds, with all clients."""
    given = work()
    count = len(given["sizes"])
    strategy = FedAvg(
        fraction_train=1.0, fraction_evaluate=0.0, min_train_nodes=count, min_available_nodes=count
    )
    initial = ArrayRecord([given[f"weights_{place}"] for place in range(4)])
    rounds = int(given["rounds"])
    strategy.start(
        grid=grid, initial_arrays=initial, num_rounds=rounds, evaluate_fn=evaluated, timeout=3600
    )


client_app = ClientApp()
client_app.train()(train)
server_app = ServerApp()
server_app.main()(serve)


def main() -> None:
    """One core a client at a time, as many as there are."""
    cores = int(os.environ["BENCH_CORES"])
    backend = {
        "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
        "init_args": {"num_cpus": cores},
    }
    run_simulation(
        server_app=server_app,
        client_app=client_app,
        num_supernodes=len(work()["sizes"]),
        backend_config=backend,
    )
