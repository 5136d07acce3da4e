import time
from pathlib import Path

import pytest

from peer.learning.usage import Phases, cgroup_memory, usage


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

    assert cgroup_memory(tmp_path / "cgroup", tmp_path) == expected


def test_cgroup_memory_without_proc_is_unknown(tmp_path: Path) -> None:
    assert cgroup_memory(tmp_path / "missing", tmp_path) == (0, 0)
