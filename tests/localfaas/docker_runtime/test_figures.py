"""A container's figures, from the files of either version and from the Engine; needs no Docker."""

from pathlib import Path

from localfaas.runtimes.docker.engine import StartedContainer
from localfaas.runtimes.docker.meter import ContainerMeter, find_group

CONTAINER = StartedContainer("abc123", ("127.0.0.1", 1), pid=7)
UNIFIED = "24 1 0:22 / {root} rw - cgroup2 cgroup2 rw\n"
FIRST = (
    "25 1 0:23 / {root}/memory rw - cgroup cgroup rw,memory\n"
    "26 1 0:24 / {root}/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
)


def lay_out(tmp_path: Path, groups: str, mounts: str, files: dict[str, str]) -> tuple[Path, Path]:
    """Return a /proc and a mountinfo that show these groups."""
    (tmp_path / "proc" / "7").mkdir(parents=True)
    (tmp_path / "proc" / "7" / "cgroup").write_text(groups)
    (tmp_path / "mountinfo").write_text(mounts.format(root=tmp_path / "cgroup"))
    for name, text in files.items():
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "proc", tmp_path / "mountinfo"


def test_figures_of_cgroup_2_are_read_and_kept_beyond_the_end(tmp_path: Path) -> None:
    folder = "system.slice/docker-abc123.scope"
    proc, mounts = lay_out(
        tmp_path,
        f"0::/{folder}\n",
        UNIFIED,
        {
            f"{folder}/memory.current": "9000\n",
            f"{folder}/memory.peak": "12000\n",
            f"{folder}/memory.stat": "inactive_file 4000\nfile 5000\npgmajfault 3\n",
            f"{folder}/memory.events": "max 2\noom_kill 1\n",
            f"{folder}/cpu.stat": "usage_usec 1500000\nuser_usec 1\n",
        },
    )

    meter = ContainerMeter(find_group(CONTAINER, proc, mounts))
    meter.refresh()
    for path in (tmp_path / "cgroup" / folder).iterdir():
        path.unlink()

    usage = meter.memory()
    assert (usage.working_set_bytes, usage.peak_bytes, usage.cache_bytes) == (5000, 12000, 5000)
    assert (usage.oom_kills, usage.major_faults, usage.reclaims) == (1, 3, 2)
    assert meter.cpu_seconds() == 1.5


def test_figures_of_cgroup_1_are_in_two_hierarchies(tmp_path: Path) -> None:
    proc, mounts = lay_out(
        tmp_path,
        "5:memory:/docker/abc123\n3:cpu,cpuacct:/docker/abc123\n0::/docker/abc123\n",
        FIRST,
        {
            "memory/docker/abc123/memory.usage_in_bytes": "9000\n",
            "memory/docker/abc123/memory.max_usage_in_bytes": "12000\n",
            "memory/docker/abc123/memory.stat": "total_inactive_file 4000\ntotal_pgmajfault 3\n",
            "memory/docker/abc123/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 0\n",
            "memory/docker/abc123/memory.failcnt": "2\n",
            "cpu/docker/abc123/cpuacct.usage": "2500000000\n",
        },
    )

    meter = ContainerMeter(find_group(CONTAINER, proc, mounts))

    assert (meter.memory().working_set_bytes, meter.memory().peak_bytes) == (5000, 12000)
    assert meter.cpu_seconds() == 2.5
    assert meter.final_memory(is_out_of_memory=True, limit_bytes=20_000).peak_bytes == 20_000
    assert meter.final_memory(is_out_of_memory=True, limit_bytes=20_000).oom_kills == 1


def test_pressure_of_a_group_that_others_are_in_is_not_the_containers(tmp_path: Path) -> None:
    proc, mounts = lay_out(
        tmp_path,
        "5:memory:/docker/abc123\n3:cpu,cpuacct:/docker/abc123\n0::/\n",
        FIRST + UNIFIED.replace("{root}", "{root}/unified"),
        {
            "memory/docker/abc123/memory.usage_in_bytes": "9000\n",
            "memory/docker/abc123/memory.max_usage_in_bytes": "12000\n",
            "memory/docker/abc123/memory.stat": "total_inactive_file 4000\n",
            "memory/docker/abc123/memory.oom_control": "oom_kill 0\n",
            "memory/docker/abc123/memory.failcnt": "0\n",
            "cpu/docker/abc123/cpuacct.usage": "1\n",
            "unified/memory.pressure": "some avg10=0 total=7000000\nfull avg10=0 total=5000000\n",
        },
    )

    usage = ContainerMeter(find_group(CONTAINER, proc, mounts)).memory()

    assert (usage.working_set_bytes, usage.pressure) == (5000, None)


def test_group_of_another_process_of_that_number_is_not_taken(tmp_path: Path) -> None:
    proc, mounts = lay_out(
        tmp_path, "0::/user.slice/shell\n", UNIFIED, {"user.slice/shell/memory.current": "1"}
    )

    assert find_group(CONTAINER, proc, mounts) is None
    assert find_group(StartedContainer("abc123", ("127.0.0.1", 0), pid=0), proc, mounts) is None


def test_engines_figures_serve_where_files_cannot_be_seen() -> None:
    meter = ContainerMeter(None)

    meter.take_stats(
        {
            "memory_stats": {
                "usage": 9000,
                "max_usage": 12000,
                "failcnt": 2,
                "stats": {"total_inactive_file": 4000, "total_pgmajfault": 3, "total_cache": 5000},
            },
            "cpu_stats": {"cpu_usage": {"total_usage": 1_500_000_000}},
        }
    )
    first = meter.memory()
    # As cgroup 2 has it: other names, and no peak.
    meter.take_stats(
        {
            "memory_stats": {"usage": 8000, "stats": {"inactive_file": 3000, "pgmajfault": 4, "file": 1}},
            "cpu_stats": {"cpu_usage": {"total_usage": 1_700_000_000}},
        }
    )
    # What comes of a container that has ended.
    meter.take_stats({})

    assert (first.working_set_bytes, first.peak_bytes, first.reclaims, first.cache_bytes) == (
        5000,
        12000,
        2,
        5000,
    )
    usage = meter.memory()
    assert (usage.working_set_bytes, usage.peak_bytes, usage.major_faults) == (5000, 12000, 4)
    assert round(meter.cpu_seconds(), 6) == 1.7
