"""A peer's metrics: what docs/metrics.md says, of real peers and of ten thousand rounds."""

from dataclasses import replace

import pytest
import requests
from documented import Documented, documented_metrics, exported_metrics
from harness import SMALL, Runner
from prometheus_client import generate_latest
from prometheus_client.parser import text_string_to_metric_families

from peer.config import RunStart
from peer.errors import ConfigurationError, ObjectMissing, OutOfMemory, StoreUnreachable
from peer.membership import RECORD_BYTES, _fitting
from peer.messages import Adaptation, MemberRecord, decode, encode
from peer.metrics import OTHER, MetricsServer, PeerMetrics
from peer.records.phases import PHASES
from peer.records.rounds import RoundRecord
from peer.store import keys

OWN = frozenset({"run", "peer"})


def record_of(number: int, **changes: object) -> RoundRecord:
    values = {
        "run": SMALL.run,
        "peer": 1,
        "round": number,
        "time": 1e9 + number,
        "weights_sha256": "",
        "num_samples": 64,
        "loss": 2.0,
        "accuracy": 0.5,
        "learning_rate": 1e-3,
        "gradient_norm": 3.0,
        "phase_seconds": dict.fromkeys(PHASES, 0.5),
        "function_seconds": {"compute": 0.25},
        "invocations": 2,
        "cold_starts": 1,
        "retries": {},
        "object_bytes": {"put": 10, "get": 20, "function_put": 30},
        "peak_function_bytes": 0,
        "peer_samples": 32,
    }
    return RoundRecord(**(values | changes))


def metrics_of(**changes: object) -> PeerMetrics:
    from msgspec.structs import replace as replace_fields

    return PeerMetrics(replace_fields(SMALL, **changes), RunStart(), 1)


def value(metrics: PeerMetrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, {"run": SMALL.run, "peer": "1", **labels})


def num_series(metrics: PeerMetrics) -> int:
    return sum(len(family.samples) for family in metrics.registry.collect())


def test_add_round_counts_what_the_record_says() -> None:
    metrics = metrics_of(rounds=100)

    metrics.add_round(record_of(0, validation_loss=1.5, exchange_bytes=1000, uncompressed_bytes=4000))
    metrics.add_round(record_of(1, hedges=3, hedges_won=2))

    expected = {
        "peerless_rounds_total": 2,
        "peerless_round": 2,
        "peerless_rounds_planned": 100,
        "peerless_last_round_timestamp_seconds": 1e9 + 1,
        "peerless_round_seconds_sum": 7.0,
        "peerless_samples_total": 64,
        "peerless_loss": 2.0,
        "peerless_validation_loss": 1.5,
        "peerless_validation_accuracy_ratio": None,
        "peerless_invocations_total": 4,
        "peerless_cold_starts_total": 2,
        "peerless_hedges_total": 3,
        "peerless_hedges_won_total": 2,
        "peerless_compression_ratio": 4.0,
    }
    assert {name: value(metrics, name) for name in expected} == expected
    assert value(metrics, "peerless_phase_seconds_total", phase="exchange") == 1.0
    assert value(metrics, "peerless_function_seconds_total", phase="compute") == 0.5
    assert value(metrics, "peerless_object_bytes_total", kind="function_put") == 60


def test_gradients_of_others_are_counted_by_how_late_they_were() -> None:
    metrics = metrics_of(staleness=2)

    metrics.add_round(record_of(0, staleness=[2, 0, 1]))
    metrics.add_round(record_of(1, staleness=[3, 1, 0]))

    counted = [value(metrics, "peerless_gradients_applied_total", staleness=str(late)) for late in range(4)]
    assert counted == [5, 1, 1, None]


def test_store_errors_are_those_that_are_no_answer() -> None:
    metrics = metrics_of()

    metrics.add_request("get", 0.1, None)
    metrics.add_request("get", 0.1, ObjectMissing("no such object"))
    metrics.add_request("get", 5.0, StoreUnreachable("it is away"))
    metrics.add_retry(StoreUnreachable("it is away"))

    assert value(metrics, "peerless_store_requests_total", operation="get") == 3
    assert value(metrics, "peerless_store_errors_total", operation="get") == 1
    assert value(metrics, "peerless_store_errors_total", operation="put") == 0
    assert value(metrics, "peerless_store_request_seconds_count", operation="get") == 3
    assert value(metrics, "peerless_retries_total", reason="StoreUnreachable") == 1
    assert value(metrics, "peerless_retries_total", reason="OutOfMemory") == 0


def test_ten_thousand_rounds_have_as_many_series_as_one() -> None:
    metrics = metrics_of()
    metrics.add_round(record_of(0, validation_loss=1.0, validation_accuracy=0.1))
    before = num_series(metrics)

    for number in range(1, 10_000):
        # the names of a function's phases are the function's choice
        hostile = {"compute": 0.1, f"phase-{number}": 0.1}
        metrics.add_round(record_of(number, function_seconds=hostile, retries={"OutOfMemory": 1}))
        metrics.add_request("put", 0.01, None)
        metrics.add_transfer("put", 1)
        metrics.add_retry(OutOfMemory("too much"))

    assert num_series(metrics) == before
    assert value(metrics, "peerless_rounds_total") == 10_000
    assert value(metrics, "peerless_function_seconds_total", phase=OTHER) == pytest.approx(999.9)


def test_every_series_has_run_and_peer_and_no_time_of_creation() -> None:
    text = generate_latest(metrics_of().registry).decode()

    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    assert all({"run", "peer"} <= set(sample.labels) for sample in samples)
    assert not any(sample.name.endswith("_created") for sample in samples)


def test_adaptations_are_counted_by_what_they_change() -> None:
    metrics = metrics_of()

    metrics.add_adaptation(Adaptation("micro_batch", "gradient", 1, 0, 64, 32, "reason"))

    counts = {
        what: value(metrics, "peerless_adaptations_total", what=what)
        for what in ("memory_limit", "micro_batch", "in_flight")
    }
    assert counts == {"memory_limit": 0, "micro_batch": 1, "in_flight": 0}


def test_metrics_server_is_there_until_it_is_closed() -> None:
    server = MetricsServer(metrics_of(), "127.0.0.1", "http://127.0.0.1:9000")

    text = requests.get(server.url, timeout=10).text
    server.close()

    assert 'peerless_round{peer="1",run="unnamed"} 0.0' in text
    with pytest.raises(requests.ConnectionError):
        requests.get(server.url, timeout=10)


def test_metrics_server_on_every_address_names_one_that_leads_there() -> None:
    server = MetricsServer(metrics_of(), "0.0.0.0", "http://127.0.0.1:9000")

    assert server.url.startswith("http://127.0.0.1:")
    assert requests.get(server.url, timeout=10).ok
    server.close()


@pytest.mark.parametrize("address", ["203.0.113.77", "no such host", "256.1.1.1"])
def test_metrics_address_that_is_not_ours_is_an_error_with_the_remedy(address: str) -> None:
    with pytest.raises(ConfigurationError, match=f"--metrics-address '{address}'.*--no-metrics"):
        MetricsServer(metrics_of(), address, "http://127.0.0.1:9000")


def test_member_record_stays_within_its_length_and_older_ones_decode() -> None:
    record = MemberRecord(
        run="r" * 64,
        peer=999,
        generation=1000,
        incarnation="i" * 32,
        counter=10**9,
        host="h" * 64,
        state="failed",
        reason='"' * 300,
        metrics_url="http://[2001:db8:1111:2222:3333:4444:5555:6666]:65535/metrics",
    )
    old = b'{"counter":1,"generation":0,"host":"h","incarnation":"i","peer":0,"run":"r","state":"running"}'

    assert len(encode(_fitting(record))) <= RECORD_BYTES
    assert _fitting(record).reason.startswith('"' * 200)
    assert decode(old, MemberRecord).metrics_url == ""
    assert decode(old[:-1] + b',"metrics_address":""}', MemberRecord).peer == 0


@pytest.mark.slow
def test_peers_serve_what_is_documented_while_they_run(local_runner: Runner) -> None:
    pages: dict[int, str] = {}
    urls: dict[int, str] = {}

    def scrape(record: RoundRecord) -> None:
        if record.round < 2 or record.peer in pages:
            return
        member = runner.store.get_message(keys.member(record.run, record.peer), MemberRecord)
        urls[record.peer] = member.metrics_url
        pages[record.peer] = requests.get(member.metrics_url, timeout=10).text

    runner = Runner(replace(local_runner.surroundings, metrics_address="127.0.0.1"))
    runner.train("measured", scrape, num_peers=2, rounds=60, compute="local")

    assert sorted(pages) == [0, 1]
    documented = {
        # of the process' own, the page names no labels of ours
        name: Documented(row.type, row.labels | OWN)
        for name, row in documented_metrics("peer").items()
    }
    for text in pages.values():
        assert exported_metrics(text) == documented
    assert len(set(urls.values())) == 2
    for url in urls.values():
        with pytest.raises(requests.ConnectionError):
            requests.get(url, timeout=10)
