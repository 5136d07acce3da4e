import pytest

from localfaas.errors import BadRequest
from localfaas.quantities import parse_cpus, parse_duration_seconds, parse_memory_bytes


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("400Mi", 400 << 20),
        ("1Gi", 1 << 30),
        ("1.5Gi", 3 << 29),
        ("512M", 512_000_000),
        ("64k", 64_000),
        ("1e6", 1_000_000),
        ("128974848", 128_974_848),
        ("128974848000m", 128_974_848),
    ],
)
def test_parse_memory_quantity_gives_bytes(text: str, num_bytes: int) -> None:
    assert parse_memory_bytes(text) == num_bytes


@pytest.mark.parametrize("text", ["", "Mi", "-1Mi", "1 Mi", "1mi", "1KB", "0", "1e999", "nan", "٣Mi"])
def test_parse_memory_nonsense_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_memory_bytes(text)


def test_parse_cpus_quantity_gives_cpus() -> None:
    assert (parse_cpus("250m"), parse_cpus("2"), parse_cpus("0.5")) == (0.25, 2.0, 0.5)


@pytest.mark.parametrize(
    ("text", "seconds"), [("120s", 120), ("1m30s", 90), ("500ms", 0.5), ("2h", 7200), ("15", 15), ("0", 0)]
)
def test_parse_duration_go_text_gives_seconds(text: str, seconds: float) -> None:
    assert parse_duration_seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "s", "1 s", "1s2", "-1s", "fast", "1d"])
def test_parse_duration_nonsense_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        parse_duration_seconds(text)
