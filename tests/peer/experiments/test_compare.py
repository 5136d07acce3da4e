"""Comparing experiments tells a difference that was made, and not noise."""

import json
from pathlib import Path

import experiment_cells as made
import pytest
from click.testing import CliRunner

from peer.cli.main import cli
from peer.errors import ConfigurationError
from peer.experiments.compare import Comparison, compare, table
from peer.experiments.records import CONVENTIONAL, SERVERLESS, CellRecord
from peer.experiments.report.build import read_experiment


def compared(directory: Path, a: list[CellRecord], b: list[CellRecord]) -> Comparison:
    folders = [made.write(directory / name, cells) for name, cells in (("a", a), ("b", b))]
    return compare(*(read_experiment(folder) for folder in folders), ("a", "b"))  # type: ignore[arg-type]


def test_compare_finds_a_difference_that_was_made_in_what_it_was_made_in(tmp_path: Path) -> None:
    found = compared(tmp_path, made.matrix(4, noise=0.01), made.matrix(4, noise=0.01, seed=1, slower=1.2))

    larger = {each.figure for each in found.figures if each.verdict == "larger"}
    assert larger == {"gradient, s", "round, s", "CPU s / 1,000 samples"}
    assert {each.verdict for each in found.figures} == {"larger", "noise"}
    gradients = [each for each in found.figures if each.figure == "gradient, s"]
    assert len(gradients) == 6
    assert all(1.1 < each.ratio.value < 1.25 for each in gradients)


@pytest.mark.parametrize("seed", range(1, 6))
def test_compare_of_the_same_with_other_noise_finds_nothing(tmp_path: Path, seed: int) -> None:
    found = compared(tmp_path, made.matrix(4, noise=0.05), made.matrix(4, noise=0.05, seed=seed))

    assert found.differing == []
    assert "0 of 42 figures differ" in list(table(found))[-1]


def test_compare_with_a_single_repeat_decides_nothing(tmp_path: Path) -> None:
    found = compared(tmp_path, made.matrix(1), made.matrix(1, slower=9.0))

    assert {each.verdict for each in found.figures} == {"undecided"}


def test_compare_puts_settings_together_by_axes_where_an_option_was_changed_for_all(tmp_path: Path) -> None:
    a = [made.cell(SERVERLESS, repeat) for repeat in (1, 2)]
    b = [
        made.cell(SERVERLESS, repeat, slower=2.0).__class__(**{**vars_of(cell), "config_hash": "changed"})
        for repeat, cell in ((repeat, made.cell(SERVERLESS, repeat, slower=2.0)) for repeat in (1, 2))
    ]

    found = compared(tmp_path, a, b)

    assert {each.setting for each in found.figures} == {"cnn, 2 peers, batch 64, 2 replicas"}
    assert (found.only_a, found.only_b) == ([], [])


def vars_of(cell: CellRecord) -> dict[str, object]:
    return {name: getattr(cell, name) for name in cell.__struct_fields__}


def test_compare_names_what_only_one_has(tmp_path: Path) -> None:
    a = [made.cell(SERVERLESS), made.cell(CONVENTIONAL)]

    found = compared(tmp_path, a, [made.cell(SERVERLESS), made.cell(SERVERLESS, peers=4)])

    assert found.only_a == ["conventional, cnn, 2 peers, batch 64"]
    assert found.only_b == ["serverless, cnn, 4 peers, batch 64, 2 replicas"]


def test_compare_of_unrelated_experiments_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no setting in common"):
        compared(tmp_path, [made.cell(SERVERLESS)], [made.cell(CONVENTIONAL, peers=3)])


def test_compare_command_exits_with_60_if_something_differs_and_0_if_not(tmp_path: Path) -> None:
    made.write(tmp_path / "before", made.matrix(3, noise=0.01))
    made.write(tmp_path / "same", made.matrix(3, noise=0.01, seed=1))
    made.write(tmp_path / "slower", made.matrix(3, noise=0.01, seed=2, slower=1.5))
    words = ["experiment", "compare", "--output", str(tmp_path), "--json", "before"]

    same, slower = (CliRunner().invoke(cli, [*words, name]) for name in ("same", "slower"))

    assert same.exit_code == 0
    assert type(slower.exception).__name__ in ("ResultsDiffer", "SystemExit")
    figures = json.loads(slower.stdout.splitlines()[0])["figures"]
    assert {each["verdict"] for each in figures} == {"larger", "noise"}
    assert {each["verdict"] for each in json.loads(same.stdout)["figures"]} == {"noise"}
