"""The report of an experiment whose durations are known: its figures, and where they lead."""

import re
import subprocess
import sys
from pathlib import Path

import click
import experiment_cells as made
import pytest

from peer.cli.train import train
from peer.errors import ConfigurationError
from peer.experiments.prices import published
from peer.experiments.records import CONVENTIONAL, DDP, SERVERLESS
from peer.experiments.report import groups
from peer.experiments.report.blocks import Section, Table
from peer.experiments.report.build import (
    default_options,
    read_experiment,
    sections_of,
    with_tables,
    write_report,
)
from peer.experiments.report.resources import compression_section
from peer.experiments.report.times import speed_up_sections
from peer.experiments.report.validity import validity_section

FILES = {"report.html", "report.md"}


def sections(directory: Path) -> dict[str, Section]:
    return {each.anchor: each for each in sections_of(read_experiment(directory), default_options())}


def section(directory: Path, anchor: str) -> Section:
    """Return one section, and make none of those after it."""
    made = sections_of(read_experiment(directory), default_options())
    return next(each for each in made if each.anchor == anchor)


def first_table(section: Section) -> Table:
    return next(block for block in section.blocks if isinstance(block, Table))


def text_of(section: Section) -> str:
    return str(section.blocks)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both variants at three batch sizes, three times, without any noise."""
    return made.write(tmp_path_factory.mktemp("exact") / "made-up", made.matrix(noise=0.0))


@pytest.fixture(scope="module")
def found(exact: Path) -> dict[str, Section]:
    return sections(exact)


def test_report_made_again_in_another_process_is_the_same_byte_for_byte(tmp_path: Path) -> None:
    directory = made.write(tmp_path / "made-up", made.matrix())
    write_report(directory, tmp_path / "first", default_options())

    command = [sys.executable, "-m", "peer", "experiment", "report", str(directory), "--to", "second"]
    subprocess.run(command, cwd=tmp_path, check=True, env={"PYTHONPATH": ":".join(sys.path)}, timeout=120)

    first, second = (
        {path.name: path.read_bytes() for path in (tmp_path / name).rglob("*") if path.is_file()}
        for name in ("first", "second")
    )
    assert set(first) > FILES
    assert len([name for name in first if name.endswith(".svg")]) >= 8
    assert first == second


def test_improvement_is_what_one_computes_by_hand(found: dict[str, Section]) -> None:
    """6 batches of 512 ms by the peer, of 542 ms by functions, of which each has one; 10 ms to average."""
    last = first_table(found["improvement"]).rows[-1]

    assert last.cells[0] == "cnn, 2 peers, batch 512, 2 replicas"
    assert last.cells[2:4] == ["6", "6 on 2"]
    assert last.cells[4].startswith("3.08")
    assert last.cells[5].startswith("3.26")
    assert last.cells[6].startswith(f"{1 - 3.262 / 3.082:.1%}")


def test_cost_of_an_epoch_is_what_one_computes_by_hand(found: dict[str, Section]) -> None:
    """Two t2.medium for 3.202 s, 5 PUT and 6 GET a round."""
    row = next(row for row in first_table(found["cost"]).rows if row.cells[1] == "cnn, 2 peers, batch 512")

    assert row.cells[0] == CONVENTIONAL
    dollars = 2 * 3.202 / 3600 * 0.0464 + 5 * 0.000005 + 6 * 0.0000004
    assert row.cells[4].startswith(f"${dollars:.6f}")


def test_every_row_of_figures_leads_to_its_lines_and_every_link_to_a_cell(
    exact: Path, found: dict[str, Section], tmp_path: Path
) -> None:
    tables = [
        block
        for section in found.values()
        for block in section.blocks
        if isinstance(block, Table) and section.anchor != "artefact"
    ]
    write_report(exact, tmp_path, default_options())
    page = (tmp_path / "report.html").read_text()

    assert len(tables) > 10
    assert [table.caption for table in tables for row in table.rows if not row.ids] == []
    linked = set(re.findall(r'href="#([^"]+)"', page))
    assert len(linked) > 18
    assert linked <= set(re.findall(r' id="([^"]+)"', page))


def test_lines_are_counted_in_the_file_even_where_one_is_torn(tmp_path: Path) -> None:
    directory = made.write(tmp_path / "made-up", made.matrix(repeats=1)[:2])
    path = directory / "cells.jsonl"
    first, second = path.read_bytes().splitlines()
    path.write_bytes(first + b"\n" + first[:40] + b"\n" + second + b"\n")

    experiment = read_experiment(directory)

    assert sorted(experiment.lines.values()) == [1, 3]


def test_everything_simulated_is_marked_and_nothing_measured_is(found: dict[str, Section]) -> None:
    marks = {
        anchor: [getattr(block, "is_simulated", False) for block in section.blocks]
        for anchor, section in found.items()
    }

    assert all(marks["headline"])
    assert len(marks["headline"]) >= 10
    assert any(marks["validity"])
    assert not any(any(marks[anchor]) for anchor in set(marks) - {"headline", "validity"})


def test_headline_has_the_published_figures_beside_ours(found: dict[str, Section]) -> None:
    text = text_of(found["headline"])

    assert f"{published().gradient_time_improvement:.2%}" in text
    assert f"{published().cost_ratio} times" in text
    assert "Assumed (2026-11-26)" in text


def test_simulator_predicts_a_run_that_is_as_it_assumes(found: dict[str, Section]) -> None:
    rows = first_table(found["validity"]).rows

    assert len(rows) == 6
    assert {row.cells[2] for row in rows} == {"other repeats"}
    assert [row.cells[5] for row in rows if abs(float(row.cells[5].rstrip("%"))) > 5] == []


def test_simulator_predicts_other_numbers_of_peers_from_each_other(tmp_path: Path) -> None:
    cells = [
        made.cell(SERVERLESS, repeat, noise=0.0, peers=peers) for repeat in (1, 2) for peers in (3, 4, 6)
    ]
    rows = first_table(validity_section(read_experiment(made.write(tmp_path / "made-up", cells)))).rows

    assert {row.cells[2] for row in rows} == {"other settings"}
    assert [row.cells[5] for row in rows if abs(float(row.cells[5].rstrip("%"))) > 10] == []


def test_sections_without_data_say_so_and_failures_are_told(tmp_path: Path) -> None:
    worked = made.cell(DDP)
    failed = made.failed(made.cell(SERVERLESS), "<script>alert(1)</script> ran | out of memory")
    directory = made.write(tmp_path / "made-up", [worked, failed])
    (tmp_path / "to").mkdir()

    found = sections(directory)
    write_report(directory, tmp_path / "to", default_options())

    for anchor in ("improvement", "headline", "by-peers", "by-replicas", "compression", "validity"):
        assert "Left out: " in text_of(found[anchor]), anchor
    page, markdown = ((tmp_path / "to" / name).read_text() for name in sorted(FILES))
    assert "<script>" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt; ran | out of memory" in page
    assert "ran \\| out of memory" in markdown


def test_report_of_failures_alone_is_made(tmp_path: Path) -> None:
    directory = made.write(tmp_path / "made-up", [made.failed(made.cell(SERVERLESS), "no store")])

    assert "no store" in text_of(sections(directory)["failures"])


def test_speed_up_by_peers_and_replicas_is_told_where_they_vary(tmp_path: Path) -> None:
    cells = [made.cell(CONVENTIONAL, noise=0.0, peers=peers) for peers in (1, 2, 4)]
    cells += [made.cell(SERVERLESS, noise=0.0, replicas=replicas) for replicas in (1, 2)]
    experiment = read_experiment(made.write(tmp_path / "made-up", cells))

    peers, replicas = (first_table(found).rows for found in speed_up_sections(experiment))

    # 94 batches of 64 ms alone, 24 of them with 4 peers, and 130 ms for the rest of a round
    assert [row.cells[3] for row in peers] == ["1.00", f"{6.146 / 3.138:.2f}", f"{6.146 / 1.666:.2f}"]
    # 47 batches a peer of 84 ms: in turn on one replica, and with 10 ms around each on one of their own
    assert [row.cells[3] for row in replicas] == ["1.00", f"{8.026 / 4.548:.2f}"]


def test_compression_is_told_where_it_varies(tmp_path: Path) -> None:
    cells = [made.cell(CONVENTIONAL, compression=codec) for codec in ("none", "fp16")]

    rows = first_table(compression_section(read_experiment(made.write(tmp_path / "made-up", cells)))).rows

    assert [row.cells[0] for row in rows] == ["fp16", "none"]
    assert rows[0].cells[2] == "2.00"


def test_allocator_slowdown_is_measured_where_both_were(tmp_path: Path) -> None:
    cells = [made.cell(SERVERLESS)]
    cells += [
        made.cell(CONVENTIONAL, noise=0.0, allocator=allocator, slower=slower)
        for allocator, slower in (("tuned", 1.0), ("default", 3.0))
    ]

    text = text_of(section(made.write(tmp_path / "made-up", cells), "headline"))

    assert "3 times as long (measured here)" in text


def test_tables_of_ones_own_take_the_place_of_the_packaged_ones(tmp_path: Path) -> None:
    path = tmp_path / "ours.yaml"
    path.write_text(
        "{name: ours, date: 2026-01-02, region: here, source: the bill, usd_per_core_hour: 1, "
        "usd_per_gib_hour: 0}"
    )

    options = with_tables(default_options(), [path], None, 0.5)

    assert options.pricing.own.name == "ours"
    assert options.pricing.cloud == default_options().pricing.cloud
    assert options.accuracy == 0.5


@pytest.mark.parametrize("content", [None, b"", b'{"id": "torn'])
def test_folder_without_results_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "cells.jsonl").write_bytes(content)

    with pytest.raises(ConfigurationError, match=r"no cells\.jsonl|no finished cell"):
        read_experiment(tmp_path)


def test_defaults_are_those_of_the_command_that_runs_cells() -> None:
    options = {
        option.opts[0].removeprefix("--"): option.default
        for option in train.params
        if isinstance(option, click.Option)
    }

    assert {name: str(options[name]) for name in groups.DEFAULTS} == {
        name: str(value) for name, value in groups.DEFAULTS.items()
    }
