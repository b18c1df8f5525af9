"""The server side of a strategy: the global model, the sums of a round, the next state.

Owned by whoever plays a job's rounds; `cloud.server` adds the body that travels. Invariant: between
two rounds every vector of the state is in memory once.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import nn

from lockstep_workers.data import Examples
from lockstep_workers.learning.evaluation import Evaluation, evaluate
from lockstep_workers.learning.parameters import FlatModel, flatten, use_vector
from lockstep_workers.learning.strategy import (
    MODEL,
    Contribution,
    ServerState,
    Strategy,
    Totals,
    Vector,
)
from lockstep_workers.learning.sums import Accumulator, InOrder, Share, Take
from lockstep_workers.tensors import Flat, split

Put = Callable[[Flat], Take]
"""Puts a vector that is ahead of its turn aside; what it returns gives it back, once."""


def copied(flat: Flat) -> Take:
    """Puts a vector aside in memory."""
    copy = flat.copy()
    return lambda: copy


class Server:
    """The vectors of one job."""

    def __init__(
        self,
        strategy: Strategy,
        module: nn.Module,
        *,
        examples: Mapping[str, int],
        deterministic: bool = False,
        put: Put = copied,
    ) -> None:
        """At the module's initial weights.

        Args:
            strategy: the method.
            module: the model.
            examples: training examples of each client of the job.
            deterministic: adds updates in the plan's order.
            put: puts those that are ahead of their turn aside.
        """
        self._strategy, self._examples, self._put = strategy, examples, put
        self._round = 0
        self.model: FlatModel = flatten(module)
        self.n_values = self.model.vector.numel() * len(strategy.uploads)
        """Values of an update."""
        self.state = strategy.start(self.model.vector.numpy())
        self._sum = Accumulator(self.n_values, vectors=len(strategy.uploads))
        self._in_order = InOrder(self._sum) if deterministic else None

    @property
    def weight(self) -> float:
        """The weight of the models that have been added in this round."""
        return self._sum.weights[0]

    def totals(self) -> Totals:
        """Figures of what has been added in this round, at least one update."""
        weights = dict(zip(self._strategy.uploads, self._sum.weights, strict=True))
        return Totals(
            round=self._round,
            contributions=tuple(self._sum.contributions),
            clients=len(self._examples),
            examples=sum(self._examples.values()),
            weights=weights,
        )

    def go_on_from(self, state: ServerState) -> None:
        """Takes the state of a checkpoint."""
        self.state = state
        self._use_model()

    def broadcast(self) -> dict[str, Vector]:
        """What a client receives: the state's own vectors, to be read only."""
        return {name: self.state.vectors[name] for name in self._strategy.broadcasts}

    def begin(self, round_number: int, participants: Sequence[str]) -> None:
        """Starts a round: empties the sums; what of the state lies in their memory is copied."""
        self._round, vectors = round_number, self.state.vectors
        self.move({n: v.copy() for n, v in vectors.items() if self._sum.holds(v)})
        self._sum.reset()
        if self._in_order is not None:
            self._in_order.begin(list(participants))

    def move(self, vectors: Mapping[str, Vector]) -> None:
        """From now on these vectors of the state live here: equal ones, in another place."""
        self.go_on_from(replace(self.state, vectors={**self.state.vectors, **vectors}))

    def add(self, client: str, flat: Flat, *, contribution: Contribution) -> None:
        """Adds an update, or keeps a copy of it until its turn."""
        examples, steps = contribution.examples, contribution.steps
        uploads = self._strategy.uploads.values()
        weights = tuple(weigh(examples=examples, steps=steps) for weigh in uploads)
        share = Share(weights, contribution)
        if self._in_order is None:
            self._sum.add(flat, share)
        elif self._in_order.is_next(client):
            self._in_order.add(client, flat, share=share)
        else:
            self._in_order.hold(client, self._put(flat), share=share)

    def skip(self, client: str) -> None:
        """A client that gives nothing to this round: nobody's turn depends on it any more."""
        if self._in_order is not None:
            self._in_order.skip(client)

    def aggregate(self, missing: Iterable[str] = ()) -> None:
        """Makes the next state from the sums of a round with at least one update.

        `missing` are still waited for, and give nothing.
        """
        for client in missing:
            self.skip(client)
        figures = self.totals()
        mean = split(self._sum.mean(), tuple(self._strategy.uploads))
        self.go_on_from(self._strategy.aggregate(self.state, mean, totals=figures))

    def evaluate(self, test: Examples) -> Evaluation:
        """Accuracy and loss of the global model."""
        return evaluate(self.model, test)

    def _use_model(self) -> None:
        """Puts the global model into the module without copying it."""
        self.model = use_vector(self.model, torch.from_numpy(self.state.vectors[MODEL]))
