"""Names of metrics say their unit: those of docs/metrics.md, which other tests hold to what is exported."""

import re

import pytest
from documented import METRICS, documented_metrics

UNIT = re.compile(r"_(seconds|bytes|ratio|info)(_total)?$|_total$")
COUNTS = {
    "peerless_round": "a number in a sequence, not a quantity",
    "peerless_rounds_planned": "a count that is set once",
    "peerless_loss": "a loss has no unit",
    "peerless_validation_loss": "a loss has no unit",
    "peerless_learning_rate": "a factor without unit",
    "peerless_gradient_norm": "a norm without unit",
    "gateway_function_invocation_started": "OpenFaaS' name of a counter",
    "gateway_service_count": "OpenFaaS' name of a count of replicas",
    "localfaas_requests_in_flight": "a count that falls, too",
    "localfaas_requests_waiting": "a count that falls, too",
    "localfaas_replicas_available": "a count that falls, too",
    "localfaas_async_queue_depth": "a count that falls, too",
    "process_open_fds": "the client library's name of a count",
    "process_max_fds": "the client library's name of a count",
}
"""Names without a unit at their end, and why each may have none."""


def every_name() -> dict[str, str]:
    """Return the type of each documented metric by its name."""
    rows = documented_metrics("gateway") | documented_metrics("peer")
    return {name: row.type for name, row in rows.items()}


def test_every_name_ends_with_its_unit_or_has_a_reason_not_to() -> None:
    without = {name for name in every_name() if not UNIT.search(name)}

    assert without == set(COUNTS)


@pytest.mark.parametrize("unit", ["seconds", "bytes", "ratio"])
def test_unit_of_the_name_is_that_of_the_table(unit: str) -> None:
    table = dict(re.findall(r"^\| `(\w+)` \| \w+ \| ([^|]+?) \|", METRICS.read_text(), re.MULTILINE))

    named = {name for name in table if re.search(rf"_{unit}(_total)?$", name)}

    assert named == {name for name, its_unit in table.items() if its_unit == unit}


def test_total_ends_the_name_of_counters_alone() -> None:
    names = every_name()

    assert {name for name in names if name.endswith("_total")} == {
        name for name, kind in names.items() if kind == "counter"
    }
