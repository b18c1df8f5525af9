"""The server side of a strategy: the global model, the sums of a round, the next state.

Owned by whoever plays a job's rounds; `cloud.server` adds the body that travels. An update is held
against its bounds, weighed, and added; what comes of a round is evaluated by its owner, who may go
on from the state before it. Invariant: between two rounds every vector of the state is in memory
once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import median_low

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lockstep_workers.data import Examples
from lockstep_workers.learning.bounding import Sketch
from lockstep_workers.learning.clipping import (
    UNSEEN,
    Limits,
    Measured,
    bounds_of,
    first_reach,
    next_reach,
    wider,
)
from lockstep_workers.learning.evaluation import Evaluation, evaluate
from lockstep_workers.learning.parameters import FlatModel, flatten, use_vector
from lockstep_workers.learning.privacy import Noise, clip
from lockstep_workers.learning.rollback import Given, unusual
from lockstep_workers.learning.safeguards import NO_SAFEGUARDS, Safeguards
from lockstep_workers.learning.strategy import (
    MODEL,
    Contribution,
    ServerState,
    Strategy,
    Totals,
    Vector,
)
from lockstep_workers.learning.sums import SumPart, Sums, share_of
from lockstep_workers.tensors import Flat, split


class Server:
    """The vectors of one job."""

    def __init__(
        self,
        strategy: Strategy,
        module: nn.Module,
        *,
        examples: Mapping[str, int],
        deterministic: bool = False,
        noise: Noise | None = None,
        safeguards: Safeguards = NO_SAFEGUARDS,
    ) -> None:
        """At the module's initial weights.

        Args:
            strategy: the method.
            module: the model.
            examples: training examples of each client of the job.
            deterministic: the sums are exact, so that no order of updates changes them.
            noise: what hides single clients in each mean; the strategy weighs all alike.
            safeguards: against dishonest clients; nothing is said of single ones that are hidden.
        """
        self._strategy, self._examples = strategy, examples
        self._noise, self._safeguards = noise, safeguards
        self._round, self._participants = 0, list[str]()
        self.model: FlatModel = flatten(module)
        self.n_values = self.model.vector.numel() * len(strategy.uploads)
        """Values of an update."""
        self.state = strategy.start(self.model.vector.numpy())
        if (reached := safeguards.reached) is not None:
            self.state = replace(self.state, reach=first_reach(reached, [*strategy.uploads]))
        self._sum = safeguards.updates(self.n_values, strategy=strategy, exact=deterministic)
        self._limits = self._limits_now()
        guards = safeguards.judge.most_times > 0 and noise is None
        self._sketch = Sketch(self.model.vector.numel()) if guards else None
        self._directions: dict[str, NDArray[np.float64]] = {}

    @property
    def weight(self) -> float:
        """The weight of the models that have been added in this round."""
        return self._sum.weights[0]

    def totals(self) -> Totals:
        """Figures of what has been added in this round, at least one update."""
        weights = dict(zip(self._strategy.uploads, self._sum.weights, strict=True))
        return Totals(
            round=self._round,
            contributions=self._sum.contributions(self._participants),
            clients=len(self._examples),
            examples=sum(self._examples.values()),
            weights=weights,
        )

    def go_on_from(self, state: ServerState) -> None:
        """Takes the state of a checkpoint; one that knows of no reach leaves what is known."""
        self.state = state if state.reach else replace(state, reach=self.state.reach)
        self._use_model()

    @property
    def bounds(self) -> Mapping[str, float]:
        """How far the vectors of a round's updates may go, for those who clip them elsewhere."""
        return self._limits.bounds

    def _limits_now(self) -> Limits:
        vectors = self.state.vectors
        travel = [name for name in self._strategy.uploads if name in self._strategy.broadcasts]
        return Limits(
            uploads=tuple(self._strategy.uploads),
            origins={name: vectors[name] for name in travel},
            bounds=bounds_of(self.state.reach, self._safeguards.clip_norm),
            momentum=self._safeguards.momentum,
        )

    def broadcast(self) -> dict[str, Vector]:
        """What a client receives: the state's own vectors, to be read only."""
        return {name: self.state.vectors[name] for name in self._strategy.broadcasts}

    def begin(self, round_number: int, participants: Sequence[str]) -> None:
        """Starts a round: empties the sums; what of the state lies in their memory is copied."""
        self._round, self._participants = round_number, list(participants)
        vectors = self.state.vectors
        self.move({n: v.copy() for n, v in vectors.items() if self._sum.holds(v)})
        self._sum.reset()
        self._directions = {}
        self._limits = self._limits_now()

    def move(self, vectors: Mapping[str, Vector]) -> None:
        """From now on these vectors of the state live here: equal ones, in another place."""
        self.go_on_from(replace(self.state, vectors={**self.state.vectors, **vectors}))

    def add(self, client: str, flat: Flat, *, contribution: Contribution) -> Measured:
        """Adds an update, which is clipped in its place."""
        if self._noise is not None:
            clip(flat, self.state.vectors[MODEL], norm=self._noise.clip_norm)
            measured = UNSEEN
        else:
            measured = self._limits.hold(flat, contribution.steps)
        if self._sketch is not None:
            model = self.state.vectors[MODEL]
            self._directions[client] = self._sketch.direction(flat[: model.size], model)
        counted = replace(contribution, distances=measured.distances)
        self._sum.add(client, flat, share=share_of(self._strategy, counted))
        return measured

    def add_part(self, sums: Sums, *, contributions: Mapping[str, Contribution]) -> None:
        """Adds what an edge has summed up, which comes from these clients.

        Raises:
            RefusedUpdate: it does not fit; nothing is changed.
        """
        shares = {c: share_of(self._strategy, one) for c, one in contributions.items()}
        self._sum.merge(SumPart(sums, shares))

    def aggregate(self) -> None:
        """Makes the next state from the sums of a round with at least one update."""
        figures, uploads = self.totals(), tuple(self._strategy.uploads)
        mean = split(self._sum.mean(self.state.vectors[MODEL]), uploads)
        if self._noise is not None:
            self._noise.add(mean[MODEL], updates=len(figures.contributions))
        reach = next_reach(
            self.state.reach,
            figures.contributions,
            uploads=uploads,
            momentum=self._safeguards.momentum,
        )
        after = self._strategy.aggregate(self.state, mean, totals=figures)
        self.go_on_from(replace(after, reach=reach))

    def suspects(self) -> dict[str, str]:
        """Clients whose update of this round stands out, and by what (`learning.rollback`)."""
        steps = median_low([one.contribution.steps for one in self._sum.shares.values()])
        given = {
            client: Given(
                distance=one.contribution.distances[0]
                / wider(one.contribution.steps, steps, momentum=self._safeguards.momentum),
                direction=self._directions.get(client),
            )
            for client, one in self._sum.shares.items()
            if one.contribution.distances
        }
        return unusual(given)

    def evaluate(self, test: Examples) -> Evaluation:
        """Accuracy and loss of the global model."""
        return evaluate(self.model, test)

    def _use_model(self) -> None:
        """Puts the global model into the module without copying it."""
        self.model = use_vector(self.model, torch.from_numpy(self.state.vectors[MODEL]))
