from pathlib import Path

import pytest
from msgspec.structs import replace

from peer.errors import ConfigurationError
from peer.experiments import records
from peer.experiments.records import CellRecord, Measure, RoundMeasure

ROUND = RoundMeasure(
    round=0,
    is_warm_up=True,
    seconds=2.0,
    ended_seconds=2.0,
    phase_seconds={"compute": 1.5},
    slowest_seconds={"compute": 1.75},
    send_seconds=0.1,
    receive_seconds=0.2,
    function_seconds={"compute": 3.0},
    invocation_seconds={"gradient": [0.5, 0.625]},
    samples=128,
)
CELL = CellRecord(
    id="0123456789ab",
    experiment="smoke",
    variant="serverless",
    axes={"batch-size": 64},
    settings={"batch-size": 64, "peers": 2},
    repeat=1,
    seed=0,
    is_warm_up=False,
    status="ok",
    error="",
    started="2026-01-01T00:00:00+00:00",
    seconds=12.0,
    config_hash="ba9876543210",
    versions={"peerless": "0.1.0"},
    load_average=0.5,
    measured=Measure(train_seconds=2.0, rounds=[ROUND], samples=128, epochs=0.2, weights_bytes=40),
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    with records.begun(tmp_path / "smoke", b"name: smoke\n", records.this_machine()):
        return tmp_path / "smoke"


def test_cells_appended_are_read_in_their_order(directory: Path) -> None:
    failed = replace(CELL, id="ffff00000000", status="failed", error="no store", measured=None)

    records.append(directory, CELL)
    records.append(directory, failed)

    assert records.read_cells(directory) == [CELL, failed]


def test_cells_after_a_torn_line_lose_that_line_alone(directory: Path) -> None:
    records.append(directory, CELL)
    with (directory / "cells.jsonl").open("ab") as file:
        file.write(b'{"id": "abc", "exper')

    with records.begun(directory, b"", records.this_machine()):
        records.append(directory, replace(CELL, repeat=2))

    assert [cell.repeat for cell in records.read_cells(directory)] == [1, 2]


def test_cells_of_a_whole_line_that_is_none_name_the_line(directory: Path) -> None:
    records.append(directory, CELL)
    with (directory / "cells.jsonl").open("ab") as file:
        file.write(b'{"id": "abc"}\n')

    with pytest.raises(ConfigurationError, match="line 2, is no cell"):
        records.read_cells(directory)


def test_cells_with_fields_of_a_later_version_are_read(directory: Path) -> None:
    records.append(directory, CELL)
    path = directory / "cells.jsonl"
    path.write_bytes(b'{"later": 1, ' + path.read_bytes().lstrip(b"{"))

    assert records.read_cells(directory) == [CELL]


def test_latest_attempt_of_a_cell_counts(directory: Path) -> None:
    failed = replace(CELL, status="failed", measured=None)

    assert records.latest([failed, replace(CELL, id="other"), CELL]) == [CELL, replace(CELL, id="other")]


def test_begun_again_has_the_new_matrix_and_the_old_cells(directory: Path) -> None:
    records.append(directory, CELL)

    with records.begun(directory, b"name: other\n", records.this_machine()):
        pass

    assert (directory / "matrix.yaml").read_bytes() == b"name: other\n"
    assert records.read_cells(directory) == [CELL]
    assert records.read_machine(directory) == records.this_machine()


def test_begun_on_another_machine_is_refused_once_there_are_cells(directory: Path) -> None:
    other = replace(records.this_machine(), cores=99)
    with records.begun(directory, b"", other):
        records.append(directory, CELL)

    with (
        pytest.raises(ConfigurationError, match="cores was 99"),
        records.begun(directory, b"", records.this_machine()),
    ):
        pass

    assert records.read_machine(directory) == other


def test_begun_twice_at_once_is_refused(directory: Path) -> None:
    with (
        records.begun(directory, b"", records.this_machine()),
        pytest.raises(ConfigurationError, match="another command"),
        records.begun(directory, b"", records.this_machine()),
    ):
        pass
