import time
from pathlib import Path

import pytest

from peer.learning.usage import GroupMemory, Phases, group_memory, usage


def test_phases_inner_phase_counts_to_itself_only() -> None:
    phases = Phases()
    start = time.perf_counter()

    with phases.phase("compute"):
        with phases.phase("fetch"):
            sum(range(100_000))
        sum(range(100_000))

    elapsed = time.perf_counter() - start
    assert set(phases.seconds) == {"compute", "fetch"}
    assert min(phases.seconds.values()) > 0
    assert sum(phases.seconds.values()) == pytest.approx(elapsed, abs=elapsed / 2)
    assert sum(phases.seconds.values()) <= elapsed


def test_usage_of_this_process_is_plausible() -> None:
    found = usage(Phases(), is_cold_start=True)

    assert found.peak_rss_bytes > 10 << 20
    assert found.is_cold_start
    assert found.replica


def test_usage_counts_the_cpu_of_this_invocation_alone() -> None:
    sum(range(2_000_000))
    before = time.process_time()
    phases = Phases()
    sum(range(2_000_000))

    found = usage(phases, is_cold_start=False)

    assert 0 < found.cpu_seconds <= time.process_time() - before


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/a/b\n", {"a/b/memory.current": "500\n", "a/b/memory.max": "900\n"}, (500, 900)),
        ("0::/a\n", {"a/memory.current": "500\n", "a/memory.max": "max\n"}, (500, 0)),
        ("0::/outside\n", {"memory.current": "7", "memory.max": "8"}, (7, 8)),
        (
            "5:cpu,cpuacct:/x\n9:memory:/x\n",
            {"memory/x/memory.usage_in_bytes": "42", "memory/x/memory.limit_in_bytes": "9223372036854771712"},
            (42, 0),
        ),
        ("5:cpu:/x\n", {}, (0, 0)),
    ],
)
def test_cgroup_memory_reads_both_versions(
    tmp_path: Path, membership: str, files: dict[str, str], expected: tuple[int, int]
) -> None:
    (tmp_path / "cgroup").write_text(membership)
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)

    memory = group_memory(tmp_path / "cgroup", tmp_path)

    assert (memory.usage_bytes, memory.limit_bytes) == expected


def test_group_memory_without_proc_is_unknown(tmp_path: Path) -> None:
    assert group_memory(tmp_path / "missing", tmp_path) == GroupMemory()


PRESSURE = "some avg10=0.00 avg60=0.00 avg300=0.00 total={}\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=1\n"


def test_group_memory_of_version_1_has_the_pressure_of_its_group_of_version_2(tmp_path: Path) -> None:
    group, unified = tmp_path / "memory" / "a", tmp_path / "unified" / "b"
    group.mkdir(parents=True)
    unified.mkdir(parents=True)
    (tmp_path / "cgroup").write_text("4:memory:/a\n0::/b\n")
    (group / "memory.usage_in_bytes").write_text("900")
    (group / "memory.limit_in_bytes").write_text("1000")
    (group / "memory.stat").write_text("inactive_file 1\ntotal_inactive_file 200\n")
    (group / "memory.failcnt").write_text("7")
    (unified / "memory.pressure").write_text(PRESSURE.format(2_500_000))

    assert group_memory(tmp_path / "cgroup", tmp_path) == GroupMemory(900, 700, 1000, 7, 2.5)


def test_group_memory_of_version_2_is_told_only_of_a_group_with_a_limit(tmp_path: Path) -> None:
    group = tmp_path / "a"
    group.mkdir()
    (tmp_path / "cgroup").write_text("0::/a\n")
    (group / "memory.current").write_text("900")
    (group / "memory.max").write_text("1000")
    (group / "memory.stat").write_text("inactive_file 200\n")
    (group / "memory.events").write_text("low 0\nmax 7\n")
    (group / "memory.pressure").write_text(PRESSURE.format(1_500_000))

    assert group_memory(tmp_path / "cgroup", tmp_path) == GroupMemory(900, 700, 1000, 7, 1.5)

    (group / "memory.max").write_text("max")

    assert group_memory(tmp_path / "cgroup", tmp_path) == GroupMemory(usage_bytes=900)
