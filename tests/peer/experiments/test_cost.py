"""Costs against examples computed by hand, and the tables that they are of."""

from pathlib import Path

import pytest

from peer.errors import ConfigurationError
from peer.experiments import cost
from peer.experiments.cost import Invocations, StoreUse, Use
from peer.experiments.prices import CloudPrices, OwnPrices, cloud_prices, own_prices, published, read_prices

PRICES = cloud_prices()


@pytest.mark.parametrize(
    ("seconds", "expected_ms"),
    [(1.0, 1000), (0.0011, 2), (0.001, 1), (0.0, 1), (0.1 + 0.2, 300), (2.0004, 2001)],
)
def test_billed_ms_is_rounded_up_to_a_millisecond(seconds: float, expected_ms: int) -> None:
    assert cost.billed_ms(seconds) == expected_ms


def test_billed_ms_of_coarser_units_is_whole_ones() -> None:
    assert cost.billed_ms(0.101, granularity_ms=100) == 200


def test_billed_rounds_each_invocation_up() -> None:
    assert cost.billed([0.0001, 0.0001, 1.5], 512, PRICES.function) == Invocations(3, 1502, 512)


def test_cloud_cost_of_functions_is_the_providers_worked_example() -> None:
    """3 million invocations of 120 ms with 1,536 MB: 540,000 GB-seconds, 9.00 USD, and 0.60 for requests."""
    use = Use("t2.medium", 0, 0.0, [Invocations(3_000_000, 360_000_000, 1536)])

    found = cost.cloud_cost(use, PRICES)

    assert found.compute == pytest.approx(9.00, abs=0.001)
    assert found.requests == pytest.approx(0.60)
    assert found.total == pytest.approx(9.60, abs=0.001)


def test_cloud_cost_of_instances_and_store_is_what_one_computes_by_hand() -> None:
    """Four t2.large for 90 s: 4 × 0.025 h × 0.0928. 1,000 PUT, 10,000 GET, a GB for 73 h."""
    store = StoreUse(puts=1000, gets=10_000, moved_bytes=5e9, stored_byte_seconds=(1 << 30) * 73 * 3600)

    found = cost.cloud_cost(Use("t2.large", 4, 90.0, store=store), PRICES)

    assert found.instances == pytest.approx(0.00928)
    assert found.store == pytest.approx(0.005 + 0.004 + 0.0023)
    assert found.compute == found.requests == 0


def test_cloud_cost_of_an_unknown_instance_names_those_that_are_known() -> None:
    with pytest.raises(ConfigurationError, match=r"no instance type 'm9\.huge': take .*t2\.large"):
        cost.cloud_cost(Use("m9.huge", 1, 1.0), PRICES)


def test_own_cost_is_by_core_hours_and_memory_hours() -> None:
    prices = own_prices()

    found = cost.own_cost(7200.0, 3600.0 * 8, prices)

    assert found == pytest.approx(2 * prices.usd_per_core_hour + 8 * prices.usd_per_gib_hour)


def test_function_share_of_a_processor_is_by_memory_and_one_thread_uses_one() -> None:
    assert cost.vcpus(1769, PRICES.function) == 1.0
    assert cost.function_seconds(2.0, 0.5, cost.vcpus(1769, PRICES.function) / 2) == 4.5
    assert cost.function_seconds(2.0, 0.5, cost.vcpus(10240, PRICES.function)) == 2.5


@pytest.mark.parametrize(
    ("peak_bytes", "expected_mb"), [(1, 128), (512 << 20, 512), ((512 << 20) + 1, 513), (99 << 30, 10240)]
)
def test_memory_for_a_peak_is_the_least_that_holds_it(peak_bytes: int, expected_mb: int) -> None:
    assert cost.memory_for(peak_bytes, PRICES.function) == expected_mb


def test_first_reaching_a_target_is_the_first_time_or_never() -> None:
    curve = [(1.0, 0.5), (2.0, 0.9), (3.0, 0.8), (4.0, 0.95)]

    assert cost.first_reaching(curve, 0.9) == 2.0
    assert cost.first_reaching(curve, 0.99) is None


def test_every_table_names_region_date_and_source() -> None:
    sources = [PRICES.function.source, PRICES.instances.source, PRICES.store.source, published().source]

    assert all(source.startswith("https://") for source in sources)
    assert PRICES.region and own_prices().region and own_prices().source
    assert min(PRICES.date, own_prices().date, published().date).year >= 2023


def test_published_figures_are_those_of_the_abstract() -> None:
    assert (published().gradient_time_improvement, published().cost_ratio) == (0.9734, 5.4)
    assert {PRICES.instance(name).vcpus for name in published().peer_instances.values()} == {2}


def test_read_prices_of_ones_own_and_of_a_cloud(tmp_path: Path) -> None:
    own, cloud = tmp_path / "own.yaml", tmp_path / "cloud.yaml"
    own.write_text(
        "{name: ours, date: 2026-01-02, region: here, source: the bill, usd_per_core_hour: 0.5, "
        "usd_per_gib_hour: 0.25}"
    )
    packaged = Path(cost.__file__).parent / "prices/aws-us-east-1.yaml"
    cloud.write_text(packaged.read_text().replace("0.0928", "0.1"))

    ours, theirs = read_prices(own), read_prices(cloud)

    assert isinstance(ours, OwnPrices) and ours.usd_per_core_hour == 0.5
    assert isinstance(theirs, CloudPrices) and theirs.instance("t2.large").usd_per_hour == 0.1


@pytest.mark.parametrize("text", ["[", "name: x", "{name: x, date: 2026-01-02, usd_per_core_hour: free}"])
def test_read_prices_of_something_else_names_the_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(text)

    with pytest.raises(ConfigurationError, match=r"prices\.yaml"):
        read_prices(path)
