"""What is learnt, from what and how: model, data, training, strategy, who takes part in a round."""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field

from lockstep_api.base import ApiModel
from lockstep_api.rules import no_change, rules
from lockstep_api.spec.common import Entrypoint, FreeForm, Positive, Seed
from lockstep_api.spec.tiers import LayerName


class StrategyName(StrEnum):
    """How local training is corrected and updates are combined."""

    FEDAVG = "fedavg"
    FEDPROX = "fedprox"
    FEDNOVA = "fednova"
    SCAFFOLD = "scaffold"
    FEDAGRAC = "fedagrac"
    CALIBRATED = "calibrated"
    FEDADAM = "fedadam"
    FEDYOGI = "fedyogi"


class Aggregation(StrEnum):
    """What a round's updates come to."""

    MEAN = "mean"
    TRIMMED_MEAN = "trimmedMean"
    MEDIAN = "median"
    KRUM = "krum"


class CalibrationGradient(StrEnum):
    """Which gradient stands for a client in strategy calibrated."""

    AVERAGE = "average"
    FIRST = "first"
    MINIBATCHES = "minibatches"
    FULL = "full"


class PartitionScheme(StrEnum):
    """How the training examples are dealt out to the devices."""

    IID = "iid"
    DIRICHLET = "dirichlet"
    SHARDS = "shards"
    NATURAL = "natural"


class Model(ApiModel):
    """The model that is trained: a built-in name, or functions in the user's image."""

    model_config = rules(
        (
            "[has(self.name), has(self.entrypoint), has(self.front) || has(self.back)]"
            ".filter(x, x).size() == 1",
            "model: set exactly one of name, entrypoint, and front with back",
        ),
        (
            "has(self.front) == has(self.back)",
            "model: front and back work only together; set both, or remove both",
        ),
        (
            "!has(self.front) || !has(self.cut)",
            "model: front and back say where the model is cut; remove cut",
        ),
    )

    name: Literal["mlp", "cnn", "resnet10", "resnet18"] | None = None
    """A built-in model: `mlp` (one hidden layer of 128), `cnn` (two convolutions, GroupNorm), or
    `resnet10`, `resnet18` (residual networks with GroupNorm, for colour images of 32×32)."""
    entrypoint: Entrypoint | None = None
    """`package.module:function` in the image; the function returns a torch.nn.Module."""
    front: Entrypoint | None = None
    """The same for the half that devices train in mode split; args go to both halves."""
    back: Entrypoint | None = None
    """The half that takes what front gives, and gives a score for each class."""
    args: FreeForm = Field(default_factory=dict)
    """Keyword arguments of the model's function."""
    cut: LayerName | None = None
    """Mode split: the layer after which the model is cut, by its name in the module (`lockstep
    explain-cut` lists them), or `auto` (when empty): the one with the shortest step that fits the
    devices."""


class Partition(ApiModel):
    """How the training examples are dealt out to the devices."""

    model_config = rules(
        (
            "self.scheme == 'dirichlet' || !has(self.alpha)",
            "data.partition: alpha belongs to scheme dirichlet only",
        ),
        (
            "self.scheme == 'shards' || !has(self.shardsPerClient)",
            "data.partition: shardsPerClient belongs to scheme shards only",
        ),
    )

    scheme: PartitionScheme = PartitionScheme.IID
    """`iid`: equal mixtures; `dirichlet`: label shares drawn from Dirichlet(alpha); `shards`: a few
    blocks of the examples sorted by label; `natural`: by the data set's own users."""
    alpha: Annotated[float, Field(gt=0, le=1e6)] | None = None
    """Concentration of scheme dirichlet (small: unequal labels); 0.5 when empty."""
    shards_per_client: Annotated[int, Field(ge=1, le=100)] | None = None
    """Blocks that each client gets in scheme shards; 2 when empty."""
    seed: Seed | None = None
    """Seed of the partition; training.seed when empty."""


class Data(ApiModel):
    """The data set: a built-in name, or a function in the user's image."""

    model_config = rules(
        ("has(self.name) != has(self.entrypoint)", "data: set exactly one of name and entrypoint")
    )

    name: Literal["fashion-mnist", "shapes32"] | None = None
    """A built-in data set: `fashion-mnist`, which the worker image holds, or `shapes32`, colour
    images of 32×32 that are drawn (args train, test: how many; seed)."""
    entrypoint: Entrypoint | None = None
    """`package.module:function` in the image; the function returns the training and test set."""
    args: FreeForm = Field(default_factory=dict)
    """Keyword arguments of the data set's function."""
    partition: Partition = Field(default_factory=Partition)
    """How the training examples are dealt out to the devices."""


class PerDeviceSteps(ApiModel):
    """Unequal numbers of local steps, drawn per device."""

    model_config = rules(("self.min <= self.max", "localSteps.perDevice: min must be at most max"))

    distribution: Literal["uniform", "gaussian", "linear", "extreme"] = "uniform"
    """How the numbers are spread between min and max. `uniform`: each as often; `gaussian`: around
    the middle, with a standard deviation of a quarter of the range; `linear`: evenly over the
    devices, in an order that is drawn; `extreme`: one device has max, all others min."""
    min: Annotated[int, Field(ge=1, le=1_000_000)]
    """Fewest local steps of a round."""
    max: Annotated[int, Field(ge=1, le=1_000_000)]
    """Most local steps of a round."""
    redraw: bool = False
    """Draw anew every round; else once for the job. training.seed seeds it."""


class PlannedSteps(ApiModel):
    """Bounds of the numbers of local steps that the planner chooses."""

    min_steps: Annotated[int, Field(ge=1, le=1_000_000)] = 4
    """Fewest local steps of a device in a round."""
    max_ratio: Annotated[float, Field(ge=1, le=1000)] = 20.0
    """Most steps of a device, as a multiple of the fewest that a device of the round has."""


class LocalSteps(ApiModel):
    """How much each device trains in a round."""

    model_config = rules(
        (
            "[has(self.fixed), has(self.budgetSeconds), has(self.perDevice), has(self.planned)]"
            ".filter(x, x).size() == 1",
            "training.localSteps: set exactly one of fixed, budgetSeconds, perDevice and planned",
        )
    )

    fixed: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """The same number of SGD steps (mini-batches) on every device."""
    budget_seconds: Positive | None = None
    """Seconds of training per round; each device does as many steps as it can, one at least. The
    planner asks for as many as fit in, once work was measured, and the device begins no step after
    them. What clocks decide no seed repeats, deterministic or not."""
    per_device: PerDeviceSteps | None = None
    """Unequal numbers of steps."""
    planned: PlannedSteps | None = None
    """The planner chooses each device's steps together with its frequency, so that all finish
    together at the least expected time + energyWeight · energy of the whole job: slow devices run
    at their maximum, fast ones do more steps. {} takes the default bounds."""


class Target(ApiModel):
    """A result on the held-out data that ends the job early."""

    model_config = rules(
        (
            "self.metric != 'accuracy' || self.value <= 1.0",
            "training.target: accuracy is a share, so value must be at most 1",
        )
    )

    metric: Literal["accuracy", "loss"] = "accuracy"
    """`accuracy` stops at or above value, `loss` at or below it."""
    value: Positive
    """The value to reach: a share (0 to 1) for accuracy, nats for loss."""


class TrainingSpec(ApiModel):
    """Local training and when the job ends."""

    model_config = rules(
        *(
            no_change(f"training.{field}", new=f"self.{field}", old=f"oldSelf.{field}")
            for field in ("batchSize", "learningRate", "momentum", "seed", "deterministic")
        ),
        no_change("training.localSteps", new="self.localSteps", old="oldSelf.localSteps"),
    )

    rounds: Annotated[int, Field(ge=1, le=1_000_000)]
    """Rounds of the job; may be changed while it runs."""
    target: Target | None = None
    """A result that ends the job early; may be changed while it runs."""
    batch_size: Annotated[int, Field(ge=1, le=65536)] = 32
    """Examples in a mini-batch."""
    learning_rate: Positive = 0.01
    """Step size of SGD on the devices. Strategies calibrated and scaffold take about a third of
    what suits fedavg; an Event says so when it is far from that."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Momentum of SGD on the devices; its state starts at 0 in every round."""
    seed: Seed = 0
    """Seed of initial weights, sampling, partition and mini-batches."""
    deterministic: bool = False
    """Repeat bit for bit: sums are exact whatever order updates come in, threads and seeds are
    fixed, and a round waits for a participant whose connection closed instead of going on without
    it."""
    local_steps: LocalSteps = Field(default_factory=lambda: LocalSteps(fixed=10))
    """How much each device trains in a round; 10 steps when empty."""


class StrategySpec(ApiModel):
    """The federated optimisation method and its parameters."""

    model_config = rules(
        (
            "self.name == 'fedprox' || !has(self.mu)",
            "strategy: mu belongs to name fedprox only",
        ),
        (
            "self.name == 'calibrated' || !has(self.deviationWeight)",
            "strategy: deviationWeight belongs to name calibrated only",
        ),
        (
            "self.name in ['calibrated', 'fedagrac'] || !has(self.calibrationWeight)",
            "strategy: calibrationWeight belongs to names calibrated and fedagrac only",
        ),
        (
            "self.name == 'calibrated' || !has(self.gradient)",
            "strategy: gradient belongs to name calibrated only",
        ),
        (
            "(has(self.gradient) && self.gradient == 'minibatches') == has(self.minibatches)",
            "strategy: minibatches and gradient minibatches work only together;"
            " set both, or remove both",
        ),
        (
            "self.name == 'scaffold' || !has(self.option)",
            "strategy: option belongs to name scaffold only",
        ),
        (
            "self.aggregation == 'mean'"
            " || self.name in ['fedavg', 'fedprox', 'fedadam', 'fedyogi']",
            "strategy: aggregation trimmedMean, median and krum work with names fedavg, fedprox,"
            " fedadam and fedyogi only; what the others upload has to be summed up",
        ),
        (
            "self.aggregation in ['trimmedMean', 'krum'] || !has(self.trim)",
            "strategy: trim belongs to aggregation trimmedMean and krum only",
        ),
    )

    name: StrategyName = StrategyName.FEDAVG
    """The method; calibrated, scaffold and fedagrac correct each step by what others found."""
    mu: Annotated[float, Field(ge=0, le=1e6)] | None = None
    """FedProx: weight of the proximal term μ/2·‖w − w_global‖²; 0.01 when empty."""
    deviation_weight: Annotated[float, Field(gt=-1, lt=1)] | None = None
    """Calibrated: λ of the model-deviation term, in (−1, 1); 0.1 when empty."""
    calibration_weight: Annotated[float, Field(ge=0, le=1)] | None = None
    """Calibrated, FedaGrac: weight of the gradient correction; when empty 1 for calibrated, 0.03
    for fedagrac."""
    gradient: CalibrationGradient | None = None
    """Calibrated: the gradient that stands for a client. `average` (when empty): the mean of its
    round's own; `first`: that of its first mini-batch, as in CN112990488B; `minibatches` and
    `full`: at the received model, of so many mini-batches or of all its examples. The last three
    hold where learningRate · the most local steps ≤ 0.4."""
    minibatches: Annotated[int, Field(ge=1, le=10_000)] | None = None
    """Calibrated with gradient minibatches: how many."""
    option: Literal["I", "II"] | None = None
    """SCAFFOLD: what a client's control variate becomes. `I`: its gradient at the received model;
    `II` (when empty): the mean of its round's own gradients."""
    server_learning_rate: Annotated[float, Field(gt=0, le=100)] | None = None
    """What the mean change of the model is multiplied with at the server; when empty 1, for fedadam
    and fedyogi 0.01."""
    server_momentum: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of the last change that the server adds to the next; when empty 0, for fedadam and
    fedyogi 0.9."""

    aggregation: Aggregation = Aggregation.MEAN
    """What a round's updates come to. `mean`: by the examples that each client holds. The others
    keep every update until the round closes (on the cloud pod's disk), count each the same, and
    bear dishonest ones: `trimmedMean` leaves out the smallest and largest of each value, `median`
    all but the middle, `krum` takes the mean of those that lie closest together. Mode federated
    only."""
    trim: Annotated[float, Field(ge=0, lt=0.5)] | None = None
    """trimmedMean: share of the updates that is left out at either end; krum: share that may be
    dishonest. Rounded up to whole updates; 0.2 when empty."""
    clip_norm: Annotated[float, Field(ge=0, le=1_000_000)] | None = None
    """How far an update may be from the model, as a multiple of how far the median one of the last
    rounds was (of a short training by the cloud pod itself in round 1); one that is further is
    scaled back to that. 10 when empty; 0: as far as it likes."""
    rollback_loss: Annotated[float, Field(ge=0, le=1_000_000)] | None = None
    """A round is taken back, and played again without the clients whose updates stand out, when the
    loss on the held-out data is then not finite, or more than so many times the larger of the loss
    before and that of guessing (ln of the classes). 5 when empty; 0: never."""


class Participation(ApiModel):
    """Who takes part in a round and when it closes."""

    model_config = rules(
        (
            "has(self.quorum) == has(self.roundDeadlineSeconds)",
            "participation: quorum and roundDeadlineSeconds work only together;"
            " set both, or remove both",
        )
    )

    fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the devices sampled for a round, without replacement; at least one."""
    quorum: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Updates that suffice once roundDeadlineSeconds have passed; all of the round's when empty."""
    round_deadline_seconds: Positive | None = None
    """Seconds after which a round closes with the quorum; no deadline when empty."""
