import hashlib

import pytest
import xxhash

from peer.errors import ObjectCorrupt
from peer.store.checksums import checksum, verify

DATA = bytes(range(256)) * 5000


@pytest.mark.parametrize(
    ("algorithm", "expected"),
    [("sha256", hashlib.sha256(DATA).hexdigest()), ("xxh3", xxhash.xxh3_128_hexdigest(DATA))],
)
def test_checksum_over_chunks_is_that_of_their_bytes(algorithm: str, expected: str) -> None:
    split = [memoryview(DATA)[:7], b"", memoryview(DATA)[7:]]

    assert checksum(algorithm, split) == f"{algorithm}:{expected}"
    verify(bytearray(DATA), f"{algorithm}:{expected}", "a/key")


@pytest.mark.parametrize("algorithm", ["sha256", "xxh3"])
def test_verify_of_changed_byte_names_the_key(algorithm: str) -> None:
    expected = checksum(algorithm, [DATA])
    changed = bytearray(DATA)
    changed[-1] ^= 1

    with pytest.raises(ObjectCorrupt, match="a/key"):
        verify(changed, expected, "a/key")


@pytest.mark.parametrize("expected", ["", "0" * 64, "md5:00", "sha256", "sha256:", "xxh3:zz"])
def test_verify_against_malformed_checksum_is_refused(expected: str) -> None:
    with pytest.raises(ObjectCorrupt):
        verify(DATA, expected, "a/key")
