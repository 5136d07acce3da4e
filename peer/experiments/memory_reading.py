"""What a gateway's metrics say of a function's memory; what a gateway does not have is None."""

from dataclasses import dataclass

from peer.dashboard.scrape import PageUnreadable, Scrape
from peer.gateway import Gateway


@dataclass(frozen=True)
class MemoryReading:
    """Memory of a function at one moment (docs/metrics.md has the names).

    Attributes:
        working_set_bytes: of the largest replica if the gateway tells it, else of all together.
        working_set_source: the metric that it is from.
        peak_bytes: of one replica since the last deployment.
        oom_kills: counted since the gateway started, as the following ones.
        reclaims: how often a limit was reached and memory had to be reclaimed.
        major_faults: page faults that read a disk.
        pressure_seconds: PSI `some`, seconds in which something waited for memory.
        source: what limits and counts memory there, such as `cgroup-v1`.
    """

    working_set_bytes: int | None = None
    working_set_source: str = ""
    peak_bytes: int | None = None
    oom_kills: int | None = None
    reclaims: int | None = None
    major_faults: int | None = None
    pressure_seconds: float | None = None
    source: str = ""


def read_memory(gateway: Gateway, label: str) -> MemoryReading:
    """Return the figures of now of a function, `name.namespace`.

    Raises:
        GatewayUnreachable: no answer.
    """
    return parse_memory(gateway.metrics(), label)


def parse_memory(text: str, label: str) -> MemoryReading:
    """Return what a page says of a function; nothing, if it is not in Prometheus' text format."""
    try:
        page = Scrape.parse(text)
    except PageUnreadable:
        return MemoryReading()

    def count(name: str) -> int | None:
        total = page.total(name, function_name=label)
        return None if total is None else int(total)

    working_set, working_set_source = None, ""
    for name in ("localfaas_replica_working_set_bytes", "pod_memory_working_set_bytes"):
        if working_set is None and (working_set := count(name)) is not None:
            working_set_source = name
    return MemoryReading(
        working_set_bytes=working_set,
        working_set_source=working_set_source,
        peak_bytes=count("localfaas_memory_peak_bytes"),
        oom_kills=count("localfaas_oom_kills_total"),
        reclaims=count("localfaas_memory_reclaims_total"),
        major_faults=count("localfaas_major_faults_total"),
        pressure_seconds=page.total(
            "localfaas_memory_pressure_seconds_total", function_name=label, kind="some"
        ),
        source=next(iter(page.by_label("localfaas_build_info", "memory_source")), ""),
    )
