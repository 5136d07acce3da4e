"""*Store*: is the object store fast enough, does it fail, is it full; as peers and as MinIO see it."""

from grafana_foundation_sdk.models import units

from dashboards.source import style
from dashboards.source.frame import Row, Spec, peers, runs
from dashboards.source.panels import About, Query, bars, grew, heat, lines, marks, numbers

_P = '{run=~"$run", peer=~"$peer"}'
_OPERATION = "{{operation}}"


def _quantile(share: float) -> str:
    buckets = f"sum by (operation, le) (rate(peerless_store_request_seconds_bucket{_P}[$__rate_interval]))"
    return f"histogram_quantile({share}, {buckets}) >= 0"  # of no requests it is NaN


_slow_now = bars(
    About(
        "Slow requests",
        "Nineteen of twenty requests of an operation were faster, as the peers measured.",
        units.Seconds,
        3,
    ),
    [Query(_quantile(0.95), _OPERATION)],
    colours=style.BY_OPERATION,
)
_errors_now = numbers(
    About(
        "Errors",
        "Requests that failed in the time shown, each of which was tried again. Red: the store is unwell.",
        units.Short,
        0,
    ),
    [Query(f"sum(increase(peerless_store_errors_total{_P}[$__range])) or vector(0)", "errors", at_end=True)],
    thresholds=style.ANY_IS_BAD,
)
_rate_now = numbers(
    About(
        "Bytes a second",
        "Into and out of the store, all peers together, functions left out.",
        units.BytesPerSecondSI,
    ),
    [Query(f"sum(rate(peerless_store_bytes_total{_P}[$__rate_interval]))", "bytes")],
)
_requests_now = numbers(
    About("Requests a second", "Of all peers together, functions left out.", units.RequestsPerSecond, 1),
    [Query(f"sum(rate(peerless_store_requests_total{_P}[$__rate_interval]))", "requests")],
)
_full_now = numbers(
    About(
        "Space used",
        "Of what MinIO can use, other programs' files on its disk included. Empty with the embedded store, "
        "which has no metrics.",
        units.PercentUnit,
        0,
    ),
    [
        Query(
            "1 - sum(minio_cluster_capacity_usable_free_bytes) "
            "/ sum(minio_cluster_capacity_usable_total_bytes)",
            "used",
        )
    ],
    thresholds=style.steps(warning=0.8, bad=0.95),
)

_requests = lines(
    About(
        "Requests, by operation",
        "Of the peers; functions use URLs that the peers sign.",
        units.RequestsPerSecond,
    ),
    [
        Query(
            f"sum by (operation) (rate(peerless_store_requests_total{_P}[$__rate_interval]))",
            _OPERATION,
        )
    ],
    colours=style.BY_OPERATION,
)
_seconds = lines(
    About(
        "Seconds a request, 95th percentile",
        "Whole objects, body included: gradients and weights of a larger model take longer.",
        units.Seconds,
    ),
    [Query(_quantile(0.95), _OPERATION)],
    colours=style.BY_OPERATION,
)
_seconds_heat = heat(
    About(
        "Seconds a request",
        "Requests of all operations by how long they took; the more, the further from the background's "
        "colour.",
        units.Seconds,
    ),
    Query(f"sum by (le) (increase(peerless_store_request_seconds_bucket{_P}[$__rate_interval]))", "{{le}}"),
)
_bytes = lines(
    About(
        "Bytes, by operation",
        "Bytes a second in bodies of requests and replies, of the peers.",
        units.BytesPerSecondSI,
    ),
    [Query(f"sum by (operation) (rate(peerless_store_bytes_total{_P}[$__rate_interval]))", _OPERATION)],
    colours=style.BY_OPERATION,
)
_errors = marks(
    About(
        "Errors, by operation", "Requests that failed; each is tried again with a back-off.", units.Short, 0
    ),
    [Query(grew(f"peerless_store_errors_total{_P}", "operation"), _OPERATION)],
    colours=style.BY_OPERATION,
)
_minio_requests = lines(
    About(
        "MinIO: requests, by API",
        "All clients, functions among them. Empty with the embedded store.",
        units.RequestsPerSecond,
    ),
    [Query("sum by (api) (rate(minio_s3_requests_total[$__rate_interval]))", "{{api}}")],
)
_minio_traffic = lines(
    About("MinIO: traffic", "Bytes a second of all clients, functions among them.", units.BytesPerSecondSI),
    [
        Query("sum(rate(minio_s3_traffic_received_bytes[$__rate_interval]))", "received"),
        Query("sum(rate(minio_s3_traffic_sent_bytes[$__rate_interval]))", "sent"),
    ],
)
_minio_waiting = lines(
    About(
        "MinIO: requests that wait", "For their turn. Above zero for long: MinIO is the limit.", units.Short
    ),
    [Query("sum(minio_s3_requests_waiting_total)", "waiting")],
)

SPEC = Spec(
    uid="peerless-store",
    description="Requests, errors, seconds and bytes of the object store, as peers and as MinIO see them.",
    variables=[runs(several=False), peers()],
    rows=[
        Row(6, [(8, _slow_now), (4, _errors_now), (4, _requests_now), (4, _rate_now), (4, _full_now)]),
        Row(9, [(8, _requests), (8, _bytes), (8, _seconds)], title="As the peers see it"),
        Row(9, [(12, _seconds_heat), (12, _errors)]),
        Row(9, [(8, _minio_requests), (8, _minio_traffic), (8, _minio_waiting)], title="As MinIO sees it"),
    ],
)
