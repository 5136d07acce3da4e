"""`peerless experiment report|compare`: what an experiment found, and what two of them found differently."""

from pathlib import Path

import click

from peer import messages
from peer.cli.options import Command, Number, option
from peer.cli.report import shortest
from peer.errors import ConfigurationError, ResultsDiffer

_output = option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    default=Path("experiments"),
    help="Where experiments are, a folder each.",
)
_file = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  peerless experiment report paper
  peerless experiment report /data/experiments/paper --to /srv/results/paper
  peerless experiment report paper --prices ours.yaml --accuracy 0.97
Leaves report.html, which needs nothing else and no network, report.md, and the
plots. Made of the same files again, they are the same, byte for byte.
""",
)
@click.argument("where", metavar="NAME|DIR")
@option(
    "--to",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Where the report goes; into the experiment's folder if not given.",
)
@option(
    "--prices",
    type=_file,
    multiple=True,
    metavar="FILE",
    help="Price table of a cloud, or of machines of your own.",
)
@option("--assumptions", type=_file, metavar="FILE", help="What simulated scenarios assume.")
@option(
    "--accuracy",
    type=Number(0, 1, min_open=True),
    help="Target of `cost to accuracy`; what every setting reached if not given.",
)
@_output
def report(
    where: str,
    to: Path | None,
    prices: tuple[Path, ...],
    assumptions: Path | None,
    accuracy: float | None,
    output: Path,
) -> None:
    """Make the report of an experiment: measured, priced, and, marked so, simulated."""
    from peer.experiments.report.build import default_options, with_tables, write_report

    directory = _directory(where, output)
    options = with_tables(default_options(), prices, assumptions, accuracy)
    for path in write_report(directory, to or directory, options):
        click.echo(shortest(path))


@click.command(
    cls=Command,
    epilog="""\b
Examples:
  peerless experiment compare before after
  peerless experiment compare paper /data/experiments/paper --json | jq .figures
Exit code 60: something differs by more than noise.
""",
)
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@_output
@option("--json", "as_json", is_flag=True, help="One JSON object.")
def compare(a: str, b: str, output: Path, as_json: bool) -> None:
    """Tell which figures of experiment B differ from A's by more than the noise of their repeats.

    Welch's t on logarithms, at 95 %, with p values corrected by Holm for being many.
    """
    from peer.experiments import compare as comparing
    from peer.experiments.report.build import read_experiment

    one, other = (read_experiment(_directory(where, output)) for where in (a, b))
    found = comparing.compare(one, other, (a, b))
    if as_json:
        click.echo(messages.encode(found))
    else:
        for line in comparing.table(found):
            click.echo(line)
    if found.differing:
        raise ResultsDiffer(f"{len(found.differing)} figures of {b} differ from {a}'s by more than noise")


def _directory(where: str, output: Path) -> Path:
    """Return an experiment's folder: the one of that path, else the one of that name."""
    for path in (Path(where), output / where):
        if path.is_dir():
            return path
    raise ConfigurationError(
        f"there is no experiment {where}: neither a folder, nor one in {shortest(output)}/"
    )
