"""Where a value comes from: command line, then environment, then file, then default."""

import click
import pytest
from msgspec.structs import replace

from peer.cli.joining import check_agrees
from peer.cli.main import cli
from peer.cli.run_options import draft, run_options, take_run_options
from peer.cli.settings import all_options, config_option
from peer.cli.train import peer
from peer.errors import ConfigurationDiffers
from peer.messages import Adaptation


@pytest.fixture
def parse():
    """Parses options of a run and returns the configuration and the epochs."""
    found = {}

    @click.command()
    @config_option
    @run_options
    @click.pass_context
    def command(context, /, **options):
        asked = take_run_options(context, options)
        found.update(config=draft("digits", asked), epochs=asked["epochs"])

    def parse(*arguments):
        command.main(arguments, standalone_mode=False)
        return found["config"], found["epochs"]

    return parse


def test_value_comes_from_command_line_then_environment_then_file_then_default(parse, monkeypatch, tmp_path):
    file = tmp_path / "run.yml"
    file.write_text("batch-size: 8\nseed: 1\nmomentum: 0.5\n")
    monkeypatch.setenv("PEERLESS_BATCH_SIZE", "16")
    monkeypatch.setenv("PEERLESS_SEED", "2")

    config, _ = parse("--config", str(file), "--batch-size", "32")

    assert config.batch_size == 32
    assert config.seed == 2
    assert config.optimizer.momentum == 0.5
    assert config.num_peers == 4


def test_file_holds_switches_mappings_and_underscores(parse, tmp_path):
    file = tmp_path / "run.yml"
    file.write_text("keep_objects: true\nmodel-arguments: {input_size: 20}\nbatches-per-round: all\n")

    config, _ = parse("--config", str(file))

    assert config.keep_objects
    assert config.model.arguments == {"input_size": 20}
    assert config.batches_per_round == 0


def test_file_may_hold_options_of_other_commands(peerless, tmp_path):
    (tmp_path / "all.yml").write_text("peers: 2\ngateway-port: 8081\nstate-dir: elsewhere\n")

    outcome = peerless("status", "--config", "all.yml", "--json")

    assert outcome.code == 50
    assert '"store":"not started"' in outcome.out


@pytest.mark.parametrize(
    ("file_text", "arguments", "expected"),
    [
        ("rounds: 200", ["--epochs", "3"], (120, 3.0)),
        ("epochs: 3", ["--rounds", "7"], (7, None)),
        ("epochs: 3", [], (120, 3.0)),
        ("rounds: 7", [], (7, None)),
    ],
)
def test_rounds_and_epochs_of_unlike_sources_follow_the_stronger(
    parse, tmp_path, file_text, arguments, expected
):
    file = tmp_path / "run.yml"
    file.write_text(file_text)

    config, epochs = parse("--config", str(file), *arguments)

    assert epochs == expected[1]
    assert epochs is not None or config.rounds == expected[0]


def test_every_option_has_its_own_variable():
    variables = {}
    for option in all_options(cli):
        if not {"--help", "--version"} & set(option.opts):
            (long,) = (name for name in option.opts if name.startswith("--"))
            assert option.envvar == "PEERLESS_" + long[2:].upper().replace("-", "_")
            variables.setdefault(option.envvar, set()).add(long)

    assert all(len(options) == 1 for options in variables.values())
    assert len(variables) > 45


def test_every_command_has_help_with_an_example(peerless):
    commands = {}

    def collect(command, path):
        for name, child in command.commands.items():
            if isinstance(child, click.Group):
                collect(child, [*path, name])
            else:
                commands[" ".join([*path, name])] = child

    collect(cli, [])

    for path in commands:
        outcome = peerless(*path.split(), "--help")
        assert outcome.code == 0
        assert f"peerless {path}" in outcome.out.partition("Example")[2], path
        assert max(map(len, outcome.out.splitlines())) <= 110


@pytest.mark.parametrize(("asked", "is_refused"), [("64", False), ("0", False), ("16", False), ("48", True)])
def test_peer_that_asks_for_what_the_run_was_before_it_adapted_may_join(asked, is_refused):
    arguments = ["digits", "--rank", "1", "--batch-size", "64", "--micro-batch", asked]
    context = peer.make_context("peer", arguments)
    wanted = draft("digits", take_run_options(context, dict(context.params)))
    adaptation = Adaptation("micro_batch", "gradient", 0, 0, 64, 16, "reason")
    config = replace(wanted, micro_batch=16, adaptations=[adaptation])

    if is_refused:
        with pytest.raises(ConfigurationDiffers, match="--micro-batch is 48 here and 16 in the run"):
            check_agrees(config, wanted, context)
    else:
        check_agrees(config, wanted, context)


@pytest.mark.parametrize(("text", "num_bytes"), [("0", 0), ("2Gi", 2 << 30), ("512M", 512 * 10**6)])
def test_largest_memory_is_an_amount(text, num_bytes):
    context = peer.make_context("peer", ["digits", "--rank", "1", "--largest-memory", text])

    assert context.params["largest_memory"] == num_bytes
