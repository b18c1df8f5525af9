"""The server of `learning`, and the body with which its vectors travel.

Owned by the job. Invariant: between two rounds every vector of the state is in memory once; during
a round the vectors that travel live in `body`.
"""

from collections.abc import Mapping, Sequence

from torch import nn

from lockstep_api.orders import ClusterOrder, ClusterResult
from lockstep_api.sessions import Refusal
from lockstep_api.wire import RoundPlan
from lockstep_workers.errors import RefusedUpdate
from lockstep_workers.learning import server
from lockstep_workers.learning.privacy import Noise
from lockstep_workers.learning.safeguards import NO_SAFEGUARDS, Safeguards
from lockstep_workers.learning.strategy import Contribution, Strategy
from lockstep_workers.learning.sums import SUMS
from lockstep_workers.parcels import Tensor
from lockstep_workers.tensors import decode, encode, split


class Server(server.Server):
    """The vectors of one job, and what devices receive of them."""

    def __init__(
        self,
        strategy: Strategy,
        module: nn.Module,
        *,
        examples: Mapping[str, int],
        deterministic: bool,
        noise: Noise | None = None,
        constants: bytes = b"",
        safeguards: Safeguards = NO_SAFEGUARDS,
    ) -> None:
        """At the module's initial weights; see `learning.server`."""
        super().__init__(
            strategy,
            module,
            examples=examples,
            deterministic=deterministic,
            noise=noise,
            safeguards=safeguards,
        )
        self.constants = constants
        """What a device takes over of the model once (`learning.constants`)."""
        self.body = bytearray()
        """What a device receives in the current round."""

    def begin(self, round_number: int, participants: Sequence[str]) -> None:
        """Starts a round: makes its body and empties the sums."""
        sent = self.broadcast()
        self.body = encode(list(sent.values()))
        size = sum(vector.size for vector in sent.values())
        self.move(split(decode(self.body, n_values=size), tuple(sent)))
        super().begin(round_number, participants)

    def completed(self, order: ClusterOrder, plan: RoundPlan) -> ClusterOrder:
        """An order as it is: vectors and strategy are all that its edge has to know."""
        return order

    def most_result_bytes(self, members: int) -> int:
        """The largest part of a cluster, whatever its members."""
        return self._sum.n_bytes

    def add_cluster(
        self,
        result: ClusterResult,
        tensors: Mapping[str, Tensor],
        *,
        contributions: Mapping[str, Contribution],
    ) -> None:
        """Adds what an edge has summed up; errors as `add_part`."""
        if tensors.keys() != {SUMS}:
            raise RefusedUpdate(Refusal.SHAPE, f"the result must hold one tensor named {SUMS!r}")
        self.add_part(tensors[SUMS], contributions=contributions)

    def aggregate(self) -> None:
        """Makes the next state from the sums of a round with at least one update."""
        # The last model can go before the next one is made: its round is over.
        self.body = bytearray()
        super().aggregate()
