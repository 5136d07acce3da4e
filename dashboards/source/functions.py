"""*Functions*: which function is short of memory, and what that does to it.

It holds on OpenFaaS' own names: what the gateway measures is read as the gateway calls it, and what only a
cluster's other exporters know comes from the recording rules, which have one name for all of them. Panels of
what only localfaas knows (cold starts, the asynchronous queue) say so and stay empty elsewhere.
"""

from grafana_foundation_sdk.models import units

from dashboards.source import style
from dashboards.source.frame import Row, Spec, functions
from dashboards.source.panels import About, Query, bars, grew, heat, lines, marks, numbers

_F = '{function_name=~"$function"}'
_NAME = "{{function_name}}"

_memory_now = bars(
    About(
        "Memory: fullest replica, of its limit",
        "Working set over limit. Orange from 80 %, red from 90 %: the next larger batch is killed. Raise "
        "`limits.memory` or lower the batch size.",
        units.PercentUnit,
        0,
    ),
    [Query(f"function:memory_working_set_ratio:max{_F}", _NAME)],
    thresholds=style.MEMORY_RATIO,
    largest=1,
)
_pressure_now = bars(
    About(
        "Memory pressure: time stalled",
        "Share of time in which some task of the function waited for memory (PSI). Where the kernel has no "
        "PSI of a control group, this is empty and *Reclaims and major faults* stands in.",
        units.PercentUnit,
        1,
    ),
    [Query(f"function:memory_pressure_ratio:rate1m{_F}", _NAME)],
    thresholds=style.PRESSURE_RATIO,
    largest=1,
)
_kills_now = numbers(
    About(
        "Out of memory",
        "Replicas killed at their memory limit in the time shown.",
        units.Short,
        0,
    ),
    [
        Query(
            f"sum by (function_name) (increase(localfaas_oom_kills_total{_F}[$__range])) "
            f"or max_over_time(function:oom_kills:increase5m{_F}[$__range])",
            _NAME,
            at_end=True,
        )
    ],
    thresholds=style.ANY_IS_BAD,
    names=True,
)
_errors_now = numbers(
    About(
        "Errors",
        "Share of invocations that failed in the last minute: 5xx, timeouts, kills.",
        units.PercentUnit,
        1,
    ),
    [Query(f"function:errors_ratio:rate1m{_F}", _NAME)],
    thresholds=style.ERROR_RATIO,
    names=True,
)

_memory_ratio = lines(
    About(
        "Working set, of the limit",
        "The fullest replica. The dashed lines are where the alert begins to warn and to fire; a fall to "
        "zero after reaching 100 % is a kill.",
        units.PercentUnit,
    ),
    [Query(f"function:memory_working_set_ratio:max{_F}", _NAME)],
    colours=style.BY_FUNCTION,
    limits=style.MEMORY_RATIO,
    largest=1.05,
    largest_first=True,
)
_memory_bytes = lines(
    About(
        "Working set and limit",
        "Memory that cannot be reclaimed: all replicas together, the fullest one, and the limit of one.",
        units.BytesIEC,
    ),
    [
        Query(f"function:memory_working_set_bytes:max{_F}", f"{_NAME} fullest replica"),
        Query(f"function:memory_working_set_bytes:sum{_F}", f"{_NAME} all replicas"),
        Query(f"function:memory_limit_bytes{_F}", f"{_NAME} limit of one"),
    ],
    colours=[*style.BY_FUNCTION, ("/limit of one$/", style.LIMIT)],
    dashed=["/limit of one$/"],
    thin=["/all replicas$/"],
)
_pressure = lines(
    About(
        "Memory pressure",
        "Share of time in which some task waited for memory (PSI). Above 10 % a function is slower for want "
        "of memory, before anything is killed.",
        units.PercentUnit,
    ),
    [Query(f"function:memory_pressure_ratio:rate1m{_F}", _NAME)],
    colours=style.BY_FUNCTION,
    limits=style.PRESSURE_RATIO,
)
_reclaims = lines(
    About(
        "Reclaims and major faults",
        "Times a second that the limit made the kernel take pages back, and that a page had to be read from "
        "disk again. Both are near zero where memory suffices.",
        units.OpsPerSecond,
    ),
    [
        Query(f"function:memory_reclaims:rate1m{_F}", f"{_NAME} reclaims"),
        Query(f"function:major_faults:rate1m{_F}", f"{_NAME} major faults"),
    ],
    colours=style.BY_FUNCTION,
    dashed=["/major faults$/"],
)
_events = marks(
    About(
        "OOM kills and cold starts",
        "When replicas were killed at their limit, and when new ones began. A cold start after each kill is "
        "a function that starts again and again. Cold starts are known of localfaas only; elsewhere kills "
        "are those of the five minutes before.",
        units.Short,
        0,
    ),
    [
        Query(
            f"{grew(f'localfaas_oom_kills_total{_F}', 'function_name')} or function:oom_kills:increase5m{_F}",
            f"{_NAME} OOM kills",
        ),
        Query(
            grew(f"localfaas_cold_start_seconds_count{_F}", "function_name"),
            f"{_NAME} cold starts",
        ),
    ],
    colours=[("/OOM kills$/", style.BAD), ("/cold starts$/", style.NEUTRAL)],
)
_cpu = lines(
    About("CPU", "Cores in use, all replicas together. A replica has one thread.", units.Short, 2),
    [Query(f"function:cpu_cores:rate1m{_F}", _NAME)],
    colours=style.BY_FUNCTION,
)
_replicas = lines(
    About("Replicas", "Replicas that serve, as the gateway counts them.", units.Short, 0),
    [Query(f"function:replicas{_F}", _NAME)],
    colours=style.BY_FUNCTION,
    steps=True,
)
_invocations = lines(
    About("Invocations", "Answered a second, by function and status code.", units.RequestsPerSecond),
    [
        Query(
            f"sum by (function_name, code) (rate(gateway_function_invocation_total{_F}[$__rate_interval]))",
            f"{_NAME} {{{{code}}}}",
        )
    ],
    colours=[*style.BY_FUNCTION, ("/ 5..$/", style.BAD), ("/ 429$/", style.WARNING)],
)
_errors = lines(
    About(
        "Errors",
        "Share of invocations that failed. 429 is not among them: it says that all replicas are busy, and "
        "is tried again.",
        units.PercentUnit,
    ),
    [Query(f"function:errors_ratio:rate1m{_F}", _NAME)],
    colours=style.BY_FUNCTION,
    limits=style.ERROR_RATIO,
)
_duration_heat = heat(
    About(
        "Duration",
        "Invocations by how long they took; the more, the further from the background's colour. Two bands "
        "are two kinds of invocation, or cold starts.",
        units.Seconds,
    ),
    Query(f"sum by (le) (increase(gateway_functions_seconds_bucket{_F}[$__rate_interval]))", "{{le}}"),
)
_duration = lines(
    About("Duration, 95th percentile", "Nineteen of twenty invocations were faster.", units.Seconds),
    [Query(f"function:duration_seconds:p95{_F}", _NAME)],
    colours=style.BY_FUNCTION,
)
_queue = lines(
    About(
        "In flight and waiting",
        "Requests that came and are not answered, those of them that wait for a replica, and asynchronous "
        "calls not answered yet. The last two are known of localfaas only.",
        units.Short,
    ),
    [
        Query(
            f"sum by (function_name) (localfaas_requests_in_flight{_F}) "
            f"or sum by (function_name) (gateway_function_invocation_started{_F}) "
            f"- sum by (function_name) (gateway_functions_seconds_count{_F})",
            f"{_NAME} in flight",
        ),
        Query(f"sum by (function_name) (localfaas_requests_waiting{_F})", f"{_NAME} waiting"),
        Query(f"sum by (function_name) (localfaas_async_queue_depth{_F})", f"{_NAME} asynchronous"),
    ],
    colours=style.BY_FUNCTION,
    dashed=["/waiting$/"],
    thin=["/asynchronous$/"],
)

SPEC = Spec(
    uid="peerless-functions",
    description="Resource use and memory pressure of every function, on localfaas and on OpenFaaS.",
    variables=[functions()],
    rows=[
        Row(6, [(8, _memory_now), (6, _pressure_now), (5, _kills_now), (5, _errors_now)]),
        Row(9, [(12, _memory_ratio), (12, _memory_bytes)], title="Memory"),
        Row(9, [(8, _pressure), (8, _reclaims), (8, _events)]),
        Row(9, [(8, _duration_heat), (8, _duration), (8, _cpu)], title="Invocations"),
        Row(9, [(8, _invocations), (8, _errors), (4, _replicas), (4, _queue)]),
    ],
)
