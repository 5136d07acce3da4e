"""`peerless experiment`: questions about functions, answered by measuring."""

from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from peer import messages
from peer.cli.connections import check_gateway, gateway_address, gateway_options, open_store, store_options
from peer.cli.experiment_report import compare, report
from peer.cli.experiment_run import list_, run, show
from peer.cli.options import Command, Count, Number, option
from peer.cli.report import shortest
from peer.cli.running import compute_with_one_thread, store_dataset
from peer.cli.values import dataset_name, yaml_mapping
from peer.errors import ConfigurationError, StopRequested
from peer.experiments.memory_plot import write_plot
from peer.experiments.memory_records import Measurement, MemoryQuestion, ResultFile
from peer.experiments.memory_report import line_of, summarise, table
from peer.experiments.search import Bounds
from peer.files import make_folder
from peer.local.signals import stop_raised
from peer.messages import ModelSpec
from peer.sizes import MIB, parse_size

_WHAT, _HOW = "What is measured", "How it is measured"
_MOST_INVOCATIONS = 1000
_LARGEST_SEED = (1 << 63) - 1
_QUICK = {
    "batch_sizes": "16,256",
    "invocations": 1,
    "largest_limit": "256Mi",
    "resolution": "8Mi",
    "step_seconds": 0.0,
}


@click.group()
def experiment() -> None:
    """Find out by measuring: a matrix of runs, or the memory that a function needs."""


for command in (run, list_, show, report, compare):
    experiment.add_command(command)


@experiment.command(
    cls=Command,
    epilog="""\b
Examples:
  peerless experiment memory
  peerless experiment memory --model squeezenet1_1 --batch-sizes 64,512
  peerless experiment memory --quick --output /tmp/memory
The same command goes on where a killed one stopped: what is in the folder is
not measured again. Who else invokes the function meanwhile runs out of memory.
""",
)
@option("--model", section=_WHAT, metavar="NAME", default="cnn", help="As for `peerless train`.")
@option(
    "--model-arguments",
    section=_WHAT,
    type=yaml_mapping,
    metavar="YAML",
    default="{}",
    help="Mapping for the model.",
)
@option(
    "--dataset",
    section=_WHAT,
    type=dataset_name,
    metavar="NAME",
    default="mnist",
    help="Name or id; stored first if it is known.",
)
@option(
    "--data-dir",
    section=_WHAT,
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    metavar="DIR",
    help="Folder with the dataset's own files, if it is not stored yet.",
)
@option("--batch-sizes", section=_WHAT, metavar="N,N…", default="64,128,512,1024", help="The paper's.")
@option("--seed", section=_WHAT, type=Count(0, _LARGEST_SEED), default=0, help="Of weights and order.")
@option(
    "--invocations",
    section=_HOW,
    type=Count(1, _MOST_INVOCATIONS),
    default=3,
    help="At each limit, one after the other.",
)
@option("--largest-limit", section=_HOW, metavar="SIZE", default="1Gi", help="Where to begin.")
@option("--resolution", section=_HOW, metavar="SIZE", default="4Mi", help="How well the need is to be known.")
@option(
    "--invocation-timeout",
    section=_HOW,
    type=Number(1),
    default=300.0,
    help="Seconds; at most the function's exec_timeout.",
)
@option(
    "--step-seconds",
    section=_HOW,
    type=Number(0),
    default=6.0,
    help="A limit stands at least so long, for Prometheus to see it.",
)
@option("--quick", section=_HOW, is_flag=True, help="Less of all, in two minutes; what is given counts.")
@option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    default=Path("experiments/memory"),
    help="Where results and plots go.",
)
@option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@gateway_options
@store_options
@click.pass_context
def memory(
    context: click.Context, /, data_dir: Path | None, output: Path, as_json: bool, **options: Any
) -> None:
    """Find out how much memory the gradient function needs, by batch size.

    Its memory limit is lowered, and the gap between what works and what does not is halved. Each time all its
    replicas are new ones. In the end, also after SIGINT or an error, the limit is what it was.
    """
    if options.pop("quick"):
        options |= _quick_values(context)
    question = _question(options)
    address = gateway_address(options)
    check_gateway(address)
    store = open_store(options, is_written=True)
    make_folder(output)
    store_dataset(store, options["dataset"], data_dir)
    compute_with_one_thread()
    from peer.experiments.memory import MemoryExperiment

    found = MemoryExperiment(store, address, question)
    results = ResultFile(output / "results.jsonl", found.settings)
    _say_before(len(results.measurements), output)
    try:
        with stop_raised():
            found.run(results, _say)
    except StopRequested as stop:
        text = f"{stop}; the memory limit is what it was, and the same command goes on from here"
        raise StopRequested(text, stop.signal_number) from stop
    found_needs = summarise(results.measurements, question.batch_sizes)
    write_plot(output / "memory.png", found_needs, results.measurements)
    if as_json:
        click.echo(messages.encode(found_needs))
        return
    click.echo()
    for line in table(found_needs):
        click.echo(line)
    click.echo(f"\n{shortest(output)}/: results.jsonl memory.png")


def _question(options: dict[str, Any]) -> MemoryQuestion:
    """Return what the options ask, checked before anything is started."""
    largest, resolution = options["largest_limit"], options["resolution"]
    bounds = Bounds(_size("--largest-limit", largest), _size("--resolution", resolution))
    if bounds.resolution_bytes >= bounds.largest_bytes:
        raise ConfigurationError(f"--resolution {resolution} is not below --largest-limit {largest}")
    return MemoryQuestion(
        model=ModelSpec(options["model"], options["model_arguments"]),
        dataset=options["dataset"],
        batch_sizes=_batch_sizes(options["batch_sizes"]),
        bounds=bounds,
        invocations=options["invocations"],
        seed=options["seed"],
        invocation_seconds=options["invocation_timeout"],
        step_seconds=options["step_seconds"],
    )


def _quick_values(context: click.Context) -> dict[str, Any]:
    """Return the smaller values of what was not asked for."""
    default = ParameterSource.DEFAULT
    return {name: value for name, value in _QUICK.items() if context.get_parameter_source(name) is default}


def _batch_sizes(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and int(part) > 0 for part in parts):
        raise ConfigurationError(f"--batch-sizes is {text!r}: write whole numbers above 0, as in 64,256")
    return tuple(sorted({int(part) for part in parts}))


def _size(name: str, text: str) -> int:
    try:
        num_bytes = parse_size(text)
    except ConfigurationError as error:
        raise ConfigurationError(f"{name}: {error}") from error
    if num_bytes % MIB:
        raise ConfigurationError(f"{name} is {text}: take whole MiB, as in 512Mi")
    return num_bytes


def _say_before(num_measurements: int, output: Path) -> None:
    known = f"; {num_measurements} measurements are there already" if num_measurements else ""
    click.echo(f"results in {shortest(output)}/{known}", err=True)


def _say(measurement: Measurement) -> None:
    click.echo(line_of(measurement), err=True)
