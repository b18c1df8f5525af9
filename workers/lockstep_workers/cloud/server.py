"""The server side of a strategy: the global model, the sum of a round, the next state.

Owned by the job. Invariant: between two rounds every vector of the state is in memory once;
during a round the vectors that travel live in `body`.
"""

from collections.abc import Sequence

import torch
from torch import nn

from lockstep_workers.cloud.holding import Holding
from lockstep_workers.data import Examples
from lockstep_workers.learning.evaluation import Evaluation, evaluate
from lockstep_workers.learning.parameters import FlatModel, flatten, use_vector
from lockstep_workers.learning.rounds import Round, totals
from lockstep_workers.learning.strategies import MODEL, ServerState, Strategy
from lockstep_workers.learning.sums import Accumulator, InOrder
from lockstep_workers.tensors import Flat, decode, encode, split


class Server:
    """The vectors of one job."""

    def __init__(
        self, strategy: Strategy, module: nn.Module, *, clients: int, deterministic: bool
    ) -> None:
        """At the module's initial weights; `deterministic` adds updates in the plan's order."""
        self._strategy, self._module, self._clients = strategy, module, clients
        self.model: FlatModel = flatten(module)
        self.body = bytearray()
        """What a device receives in the current round."""
        self.n_values = self.model.vector.numel() * len(strategy.uploads)
        """Values of an update."""
        self.state = strategy.start(self.model.vector.numpy())
        self._sum = Accumulator(self.n_values)
        self._in_order = InOrder(self._sum) if deterministic else None
        self._holding = Holding()

    @property
    def weight(self) -> float:
        """The weight of what has been added in this round."""
        return self._sum.weight

    def go_on_from(self, state: ServerState) -> None:
        """Takes the state of a checkpoint."""
        self.state = state
        self._use_model()

    def begin(self, participants: Sequence[str]) -> None:
        """Starts a round: makes its body and empties the sum.

        Afterwards the state lives in the body, so that it is in memory once.
        """
        names, state = self._strategy.broadcasts, self.state.vectors
        self.body = encode([state[name] for name in names])
        size = sum(state[name].size for name in names)
        kept = {
            n: v.copy() if self._sum.holds(v) else v for n, v in state.items() if n not in names
        }
        self.state = ServerState(kept | split(decode(self.body, n_values=size), names))
        self._use_model()
        self._sum.reset()
        if self._in_order is not None:
            self._in_order.begin(list(participants))

    def add(self, client: str, flat: Flat, *, examples: int, steps: int) -> None:
        """Adds an update, or keeps a copy of it until its turn."""
        weight = self._strategy.weigh(examples=examples, steps=steps)
        if self._in_order is None:
            self._sum.add(flat, weight)
        elif self._in_order.is_next(client):
            self._in_order.add(client, flat, weight)
        else:
            self._in_order.hold(client, self._holding.put(flat), weight)

    def skip(self, client: str) -> None:
        """A client that gives nothing to this round: nobody's turn depends on it any more."""
        if self._in_order is not None:
            self._in_order.skip(client)

    def aggregate(self, done: Round) -> None:
        """Makes the next state from the sum of a closed round with at least one update."""
        for client in done.waiting():
            self.skip(client)
        weights = {
            name: self._strategy.weigh(examples=r.update.examples, steps=r.update.steps)
            for name, r in done.accepted.items()
        }
        figures = totals(done, clients=self._clients, weights=weights)
        mean = split(self._sum.mean(), self._strategy.uploads)
        # The last model can go before the next one is made: its round is over.
        self.body = bytearray()
        self.state = self._strategy.aggregate(self.state, mean, figures)
        self._use_model()

    def evaluate(self, test: Examples) -> Evaluation:
        """Accuracy and loss of the global model."""
        return evaluate(self.model, test)

    def _use_model(self) -> None:
        """Puts the global model into the module without copying it."""
        self.model = use_vector(self._module, torch.from_numpy(self.state.vectors[MODEL]))
