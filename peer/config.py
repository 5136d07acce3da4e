"""What a run is (`RunConfig`, frozen in the store) and where and how patiently it runs (`Settings`)."""

from dataclasses import dataclass, field
from importlib.metadata import version

from peer import __version__
from peer.allocation.plans import TARGETS, Plan
from peer.compression.names import NONE, parse, parse_stateless
from peer.errors import ConfigurationDiffers, ConfigurationError
from peer.messages import PROTOCOL_VERSION, Adaptation, Message, ModelSpec, OptimizerSpec

EXCHANGES = ("all_gather", "scatter_reduce", "in_function")
"""Names of the strategies in `peer.exchange`."""

AUTOMATIC_EXCHANGE = "auto"
"""Until a run is created, which measures the store first."""

LARGEST_STALENESS = 32
"""So few that each value of it may have a metric of its own."""

ALL_BATCHES = 0
"""`batches_per_round` of the paper's setting: every batch of the shard, one step an epoch."""


class PlateauSpec(Message, frozen=True):
    """Multiply the learning rate by `factor` after `patience` evaluations without a better held-out loss."""

    patience: int = 0
    factor: float = 0.5


class EarlyStopSpec(Message, frozen=True):
    """Stop after `patience` evaluations whose held-out loss is not `min_delta` below the best; 0 is never."""

    patience: int = 0
    min_delta: float = 0.0


class OuterSpec(Message, frozen=True):
    """How what local steps came to is applied: SGD, with Nesterov's momentum if there is one.

    The defaults take the mean of all weights (K-AVG); DiLoCo's are 0.7 and 0.9.
    """

    learning_rate: float = 1.0
    momentum: float = 0.0


class RunConfig(Message, frozen=True):
    """Everything that decides a run's weights: two runs with equal values end with equal bits.

    But for `staleness` above 0, with which timing decides, too: peers are so many rounds apart at most.
    `batches_per_invocation` (packing) belongs to it, because sums are folded by invocation; the number of
    replicas and how many invocations are in flight do not. With `local_steps` an invocation takes so many
    steps of `optimizer`, one a batch, and `outer` applies their mean; without, `optimizer` applies gradients.
    `micro_batch` is what the run begins with, and `adaptations` are what it took to come there; a batch that
    is split later has the same gradient to float error. `indivisible_layer` is why no batch may be split,
    empty if batches may be. With `optimize` the packing and the micro-batch are those of `plan`.
    """

    run: str
    dataset: str
    num_peers: int
    rounds: int
    batch_size: int
    batches_per_round: int
    batches_per_invocation: int
    initial_weights: str
    initial_weights_bytes: int
    protocol: int = PROTOCOL_VERSION
    versions: dict[str, str] = {}
    model: ModelSpec = ModelSpec(name="cnn")
    partition: str = "iid"
    loss: str = "cross_entropy"
    seed: int = 0
    micro_batch: int = 0
    optimizer: OptimizerSpec = OptimizerSpec()
    local_steps: int = 0
    outer: OuterSpec = OuterSpec()
    plateau: PlateauSpec = PlateauSpec()
    early_stop: EarlyStopSpec = EarlyStopSpec()
    evaluate_every: int = 20
    checkpoint_every: int = 20
    compute: str = "functions"
    exchange: str = "all_gather"
    staleness: int = 0
    compression: str = NONE
    function_compression: str = NONE
    invocation_seconds: float = 120.0
    keep_objects: bool = False
    no_adapt: bool = False
    largest_memory_bytes: int = 0
    indivisible_layer: str = ""
    adaptations: list[Adaptation] = []
    optimize: str = ""
    most_replicas: int = 0
    plan: Plan | None = None


class RunStart(Message, frozen=True):
    """Where one generation of a run begins: anew at round 0, or (`resumed_round`) at a checkpoint."""

    generation: int = 0
    resumed_round: int | None = None


@dataclass(frozen=True)
class Liveness:
    """How long a peer waits for the others, in seconds, before it stops with an error that names them."""

    heartbeat_seconds: float = 2.0
    peer_seconds: float = 20.0
    join_seconds: float = 300.0


@dataclass(frozen=True)
class GatewayAddress:
    """An OpenFaaS gateway. Without a password, `/system/*` is not asked (invocations need none)."""

    url: str
    user: str = "admin"
    password: str = field(default="", repr=False)


def is_adaptive(config: RunConfig) -> bool:
    """Return whether the run changes sizes that do not fit; a peer that computes itself has no limit."""
    return config.compute == "functions" and not config.no_adapt


def current_versions() -> dict[str, str]:
    """Return the versions that must agree between peers, because they decide bits or messages."""
    return {"peerless": __version__, "torch": version("torch").partition("+")[0]}


def check_versions(config: RunConfig) -> None:
    """Return if this process speaks the run's protocol with the run's libraries.

    Raises:
        ConfigurationDiffers: names every key that differs, with both values.
    """
    here = {"protocol": str(PROTOCOL_VERSION)} | current_versions()
    run = {"protocol": str(config.protocol)} | config.versions
    differing = [
        f"{key} is {here.get(key)} here and {run.get(key)} in the run"
        for key in sorted(here | run)
        if here.get(key) != run.get(key)
    ]
    if differing:
        raise ConfigurationDiffers(
            f"run {config.run}: {'; '.join(differing)}. Install the same versions on every peer."
        )


def validate(config: RunConfig) -> None:
    """Return if the numbers of a configuration make sense together.

    Raises:
        ConfigurationError: names the option, its value and what it may be.
    """
    minima = {
        "num_peers": 1,
        "rounds": 1,
        "batch_size": 1,
        "batches_per_round": ALL_BATCHES,
        "batches_per_invocation": 1,
        "micro_batch": 0,
        "local_steps": 0,
        "evaluate_every": 0,
        "checkpoint_every": 0,
        "most_replicas": 0,
        "staleness": 0,
        "seed": 0,
    }
    for name, minimum in minima.items():
        value = getattr(config, name)
        if value < minimum:
            raise ConfigurationError(f"--{name.replace('_', '-')} is {value}; it must be at least {minimum}")
    choices = {"compute": ("functions", "local"), "exchange": (AUTOMATIC_EXCHANGE, *EXCHANGES)}
    for name, known in choices.items():
        if getattr(config, name) not in known:
            raise ConfigurationError(
                f"--{name} is {getattr(config, name)!r}; it is one of {', '.join(known)}"
            )
    parse(config.compression)
    parse_stateless(config.function_compression)
    _check_exchange(config)
    _check_plan(config)
    if config.local_steps:
        _check_local_steps(config)
    if config.largest_memory_bytes and not is_adaptive(config):
        other = "--compute local" if config.compute == "local" else "--no-adapt"
        raise ConfigurationError(
            f"--largest-memory raises limits of functions, {other} none: give one of them"
        )
    if config.optimizer.learning_rate <= 0:
        raise ConfigurationError(f"--learning-rate is {config.optimizer.learning_rate}; it must be above 0")
    if config.early_stop.patience and not config.evaluate_every:
        raise ConfigurationError("--early-stop needs held-out evaluations: set --evaluate-every above 0")


def _check_plan(config: RunConfig) -> None:
    if config.optimize not in ("", *TARGETS):
        raise ConfigurationError(f"--optimize is {config.optimize!r}; it is one of {', '.join(TARGETS)}")
    if config.optimize and config.compute == "local":
        raise ConfigurationError("--optimize plans functions, and --compute local has none: give one of them")
    if config.most_replicas and not config.optimize:
        raise ConfigurationError("--most-replicas bounds a plan, and there is none: give --optimize, too")


def _check_exchange(config: RunConfig) -> None:
    if (config.compute, config.exchange) == ("local", "in_function"):
        raise ConfigurationError("--exchange in_function needs functions, and --compute local has none")
    if config.staleness and config.exchange not in (AUTOMATIC_EXCHANGE, "all_gather"):
        raise ConfigurationError(
            f"--exchange {config.exchange} reduces a round of all peers together, and with --staleness they "
            "are not in the same one: take all_gather"
        )
    if config.staleness > LARGEST_STALENESS:
        raise ConfigurationError(
            f"--staleness is {config.staleness}; it may be at most {LARGEST_STALENESS}: the store keeps more "
            "than so many rounds of gradients"
        )


def _check_local_steps(config: RunConfig) -> None:
    steps = config.local_steps
    if config.batches_per_invocation != steps:
        raise ConfigurationError(
            f"--batches-per-invocation is {config.batches_per_invocation}, --local-steps {steps}: "
            "an invocation takes a step a batch; leave the former out"
        )
    if config.batches_per_round % steps:
        raise ConfigurationError(
            f"--batches-per-round is {config.batches_per_round}; with --local-steps {steps} it must be "
            "a multiple of them, or `all`"
        )
