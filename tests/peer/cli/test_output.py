"""What a person sees: a summary that fits 80 columns, progress as plain lines where there is no terminal."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from peer.cli.progress import RunProgress
from peer.cli.report import print_summary, shortest
from peer.messages import Adaptation
from peer.records.rounds import FunctionMemory, RoundRecord
from peer.records.summary import SlowestPeer, Summary

SUMMARY = Summary(
    run="mnist-squeezenet1_1-20260101-120000",
    dataset="fashion-mnist-29250932f1be",
    model="squeezenet1_1",
    num_peers=4,
    compute="functions",
    rounds=120,
    samples=61440,
    epochs=1.12,
    train_seconds=64.0,
    phase_seconds={"publish": 7.41, "compute": 26.48, "exchange": 6.46, "wait": 20.0, "update": 0.71},
    function_seconds={},
    test_accuracy=0.9783,
    test_loss=0.067,
    best_validation_loss=0.08,
    best_round=100,
    stop_reason="",
    weights_sha256="4ed63a645a09e997" * 4,
    weights_key="runs/x/weights/4ed6",
    invocations=1504,
    cold_starts=2,
    retries={"FunctionBusy": 3, "InvocationFailed": 1},
    object_bytes={"put": 12_345_678_901, "get": 3_250_000_000, "function_put": 809_700_000},
    peak_function_mb=623.4,
    functions={
        "gradient": FunctionMemory(
            invocations=1400,
            out_of_memory=12,
            limit_bytes=2 << 30,
            working_set_bytes=1900 << 20,
            pressure_seconds=123.45,
        ),
        "evaluate": FunctionMemory(invocations=104, limit_bytes=2 << 30, working_set_bytes=300 << 20),
    },
    slowest={
        "compute": SlowestPeer(3, 31.2, 26.4),
        "wait": SlowestPeer(0, 40.0, 20.0),
        "update": SlowestPeer(1, 0.8, 0.7),
    },
)


def record(round_number: int, **changes: object) -> RoundRecord:
    values = dict.fromkeys(RoundRecord.__struct_fields__, 0) | {
        "run": "digits",
        "peer": 0,
        "round": round_number,
        "weights_sha256": "",
        "loss": 0.5,
        "accuracy": 0.9,
        "phase_seconds": {},
        "function_seconds": {},
        "retries": {},
        "object_bytes": {},
        "staleness": [],
        "validation_loss": None,
        "validation_accuracy": None,
    }
    return RoundRecord(**(values | changes))


@pytest.mark.parametrize("columns", ["80", "60", "200"])
def test_summary_fits_80_columns_and_has_no_colours_off_a_terminal(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)

    print_summary(SUMMARY, Path.cwd() / "runs" / SUMMARY.run)

    text = capsys.readouterr().out
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert "\x1b" not in text
    assert "97.83%" in text
    assert f"runs/{SUMMARY.run}/" in text


def test_summary_of_local_compute_leaves_functions_out(capsys):
    print_summary(replace(SUMMARY, compute="local"))

    text = capsys.readouterr().out
    assert "invocations" not in text
    assert "--compute local" not in text


def test_summary_of_peers_apart_says_how_late_and_that_timing_counts(capsys):
    print_summary(replace(SUMMARY, staleness=2, late=[6, 1, 1]))

    text = capsys.readouterr().out
    assert "  rounds late      0.38 in the mean, at most 2; 75% of gradients not at all\n" in text
    assert "depend on timing" in text
    assert [line for line in text.splitlines() if len(line) > 80] == []


def test_path_is_relative_only_below_the_working_directory(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    assert shortest(tmp_path / "runs" / "x") == Path("runs/x")
    assert shortest(Path("/var/runs")) == Path("/var/runs")


def test_progress_off_a_terminal_is_a_few_plain_lines_with_the_first_and_the_last(capsys):
    with RunProgress(120) as progress:
        for number in range(120):
            progress.update(record(number))
            progress.update(record(number, peer=1))

    lines = capsys.readouterr().err.splitlines()
    assert 10 <= len(lines) <= 14
    assert lines[0].startswith("round    1/120")
    assert lines[-1].startswith("round  120/120")


def test_progress_of_a_run_of_many_rounds_has_a_line_a_minute(capsys):
    with RunProgress(1_000_000) as progress:
        for number in range(60):
            progress.update(record(number, time=1e9 + 10 * number))

    assert len(capsys.readouterr().err.splitlines()) == 10


def test_progress_of_peers_apart_says_how_late_gradients_were(capsys):
    with RunProgress(2) as progress:
        progress.update(record(0, staleness=[1, 0, 1]))

    assert capsys.readouterr().err.rstrip().endswith("1.0 rounds late")


def test_progress_of_a_resumed_run_begins_where_it_goes_on(capsys):
    with RunProgress(60, first=40) as progress:
        for number in range(40, 60):
            progress.update(record(number, validation_accuracy=0.97 if number > 50 else None))

    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("round   41/60")
    assert lines[-1].endswith("held-out 97.00%")


def test_summary_names_the_fullest_function_and_the_slowest_peer(capsys):
    print_summary(SUMMARY)

    text = capsys.readouterr().out
    assert "  fullest          gradient, 1900 of 2048 MiB (93%), waited 123.5 s, 12 OOM\n" in text
    assert "  slowest          peer 3, compute 31.2 s; median 26.4 s\n" in text


def test_summary_without_memory_figures_and_other_peers_has_no_such_lines(capsys):
    print_summary(replace(SUMMARY, functions={"gradient": FunctionMemory(invocations=1)}, slowest={}))

    text = capsys.readouterr().out
    assert "fullest" not in text
    assert "slowest" not in text


def adaptation(number):
    return Adaptation("micro_batch", "gradient", 0, number, 64, 32, "reason", times=12)


def test_summary_lists_what_was_adapted_within_80_columns(capsys):
    few = [
        Adaptation("memory_limit", "aggregate", 0, 0, 1024 << 20, 16384 << 20, "reason"),
        Adaptation("micro_batch", "gradient", 0, 0, 64, 32, "reason"),
        Adaptation("in_flight", "gradient", 3, 9999, 5, 4, "reason", times=12),
    ]

    print_summary(replace(SUMMARY, adaptations=few))
    print_summary(replace(SUMMARY, adaptations=[adaptation(number) for number in range(11)]))

    text = capsys.readouterr().out
    assert "  adapted          memory limit of aggregate 1024 MiB → 16384 MiB, round 0\n" in text
    assert "                   micro-batch 64 → 32 samples, round 0\n" in text
    assert "                   invocations at once 5 → 4, 12 times, round 9999\n" in text
    assert "                   and 3 more, in summary.json\n" in text
    assert [line for line in text.splitlines() if len(line) > 80] == []
