"""Amounts of memory, read and written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peer.errors import ConfigurationError
from peer.sizes import mib, parse_size, quantity


@pytest.mark.parametrize(
    ("text", "num_bytes"),
    [
        ("512Mi", 512 << 20),
        ("2Gi", 2 << 30),
        ("0.5Gi", 512 << 20),
        ("128M", 128_000_000),
        ("64k", 64_000),
        ("4096", 4096),
    ],
)
def test_parse_size_of_a_quantity_is_its_bytes(text: str, num_bytes: int) -> None:
    assert parse_size(text) == num_bytes


@pytest.mark.parametrize("text", ["", "Mi", "-1Mi", "0", "0Mi", "1e3", "12 Mi", "12MiB", "twelve"])
def test_parse_size_of_something_else_says_how_to_write_it(text: str) -> None:
    with pytest.raises(ConfigurationError, match="no amount of memory: write 512Mi"):
        parse_size(text)


@given(st.integers(1, 1 << 42))
def test_quantity_is_read_as_the_same_bytes(num_bytes: int) -> None:
    assert parse_size(quantity(num_bytes)) == num_bytes


def test_mib_is_short() -> None:
    assert (mib(44 << 20), mib(1 << 19)) == ("44 MiB", "0.5 MiB")
