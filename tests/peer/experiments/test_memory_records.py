"""Measurements in their file, and what they add up to."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from peer.errors import ConfigurationError, FileNotWritten
from peer.experiments import memory_plot, memory_report
from peer.experiments.memory_records import Measurement, ResultFile, Settings, read_measurements
from peer.messages import ModelSpec

MIB = 1 << 20
SETTINGS = Settings(
    function="gradient",
    image="peerless/gradient:1",
    orchestration="process",
    memory="cgroup-v1",
    model=ModelSpec("cnn"),
    dataset="mnist-0123456789ab",
    seed=0,
    invocations=2,
    versions={"torch": "2"},
)


def measurement(batch_size: int, limit_mib: int, outcome: str) -> Measurement:
    return Measurement(
        settings=SETTINGS,
        settings_hash=SETTINGS.hash,
        host={"cores": 2},
        load_average=0.5,
        time=1.0,
        batch_size=batch_size,
        limit_bytes=limit_mib * MIB,
        outcome=outcome,  # type: ignore[arg-type]
        reason="" if outcome == "ok" else "why",
        seconds=[0.5, 0.25] if outcome == "ok" else [],
        compute_seconds=[],
        cold_starts=1,
        retries={},
        working_set_bytes=30 * MIB if outcome == "ok" else None,
        working_set_source="",
        peak_bytes=limit_mib * MIB,
        oom_kills=int(outcome == "out_of_memory"),
        reclaims=2,
        major_faults=0,
        pressure=None,
        pressure_source="reclaims",
    )


MEASURED = [
    measurement(64, 128, "ok"),
    measurement(64, 64, "ok"),
    measurement(64, 32, "out_of_memory"),
    measurement(256, 128, "ok"),
    measurement(256, 64, "retried"),
    measurement(1024, 128, "out_of_memory"),
]


def test_results_after_a_torn_line_are_read_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    results = ResultFile(path, SETTINGS)
    for each in MEASURED[:2]:
        results.add(each)
    with path.open("ab") as file:
        file.write(path.read_bytes()[:300])

    again = ResultFile(path, SETTINGS)
    again.add(MEASURED[2])

    assert again.of(64)[:2] == MEASURED[:2]
    assert read_measurements(path) == MEASURED[:3]


def test_results_of_other_settings_are_refused_with_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    ResultFile(path, SETTINGS).add(MEASURED[0])

    with pytest.raises(ConfigurationError, match=r"seed was 0, is 1.*--output"):
        ResultFile(path, replace(SETTINGS, seed=1))


def test_settings_hash_depends_on_each_of_them() -> None:
    assert len({SETTINGS.hash, replace(SETTINGS, seed=1).hash, replace(SETTINGS, memory="rlimit").hash}) == 3


def test_summary_says_what_each_batch_size_needs() -> None:
    report = memory_report.summarise(MEASURED, (64, 256, 1024, 2048))

    found = {each.batch_size: (each.needed_bytes, each.failing_bytes) for each in report.needs}
    assert found == {
        64: (64 * MIB, 32 * MIB),
        256: (128 * MIB, 64 * MIB),
        1024: (None, 128 * MIB),
    }
    assert [each.failing_outcome for each in report.needs] == ["out_of_memory", "retried", "out_of_memory"]
    assert report.needs[0].seconds == 0.375
    assert report.bytes_per_sample == pytest.approx(64 * MIB / 192)
    assert report.fixed_bytes == pytest.approx(64 * MIB - 64 * 64 * MIB / 192)


def test_table_fits_eighty_columns_and_says_of_what_the_figures_are() -> None:
    lines = list(memory_report.table(memory_report.summarise(MEASURED, (64, 256, 1024))))

    assert max(map(len, lines)) <= 80
    assert any(line.split()[:5] == ["64", "64", "MiB", "32", "MiB"] for line in lines)
    assert any("> 128 MiB" in line for line in lines)
    assert "what a replica shares with its warm parent" in " ".join(lines)
    container = replace(SETTINGS, orchestration="kubernetes")
    assert "interpreter and torch included" in " ".join(memory_report.meaning(container))


def test_lines_of_measurements_are_one_line_each() -> None:
    lines = [memory_report.line_of(each) for each in MEASURED]

    assert "works" in lines[0]
    assert "out of memory" in lines[2]
    assert not any("\n" in line for line in lines)


@pytest.mark.slow
def test_plot_of_equal_measurements_is_equal_and_of_none_that_works_still_drawn(tmp_path: Path) -> None:
    report = memory_report.summarise(MEASURED, (64, 256, 1024))
    nothing = memory_report.summarise(MEASURED[-1:], (1024,))

    for name in ("a.png", "b.png"):
        memory_plot.write_plot(tmp_path / name, report, MEASURED)
    memory_plot.write_plot(tmp_path / "nothing.png", nothing, MEASURED[-1:])

    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "nothing.png").stat().st_size > 1000


def test_plot_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    report = memory_report.summarise(MEASURED, (64,))

    with pytest.raises(FileNotWritten, match="cannot be written"):
        memory_plot.write_plot(tmp_path / "missing" / "memory.png", report, MEASURED)
