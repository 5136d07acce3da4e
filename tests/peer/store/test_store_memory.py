"""A tensor of 500 MB crosses the store without a second copy in this process."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from peer.store.s3 import Store, StoreAddress, verify
from peer.store.tensors import decode, encode

MIB = 1 << 20
NUM_TENSOR_BYTES = 500 * MIB


def memory_bytes(name: str) -> int:
    match = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match
    return int(match[1]) * 1024


def round_trip(address: StoreAddress, num_bytes: int) -> tuple[int, int]:
    """Return resident bytes before, and at the peak of, a put and a get with checksums."""
    store = Store(address)
    tensor = torch.ones(num_bytes // 4)
    before = memory_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    encoded = encode({"gradient": tensor})
    store.put("gradient", encoded.chunks, encoded.length)
    buffer = store.get("gradient", encoded.length)
    verify(buffer, encoded.sha256(), "gradient")
    received = decode(buffer).tensors["gradient"]
    assert torch.equal(received, tensor)
    peak = memory_bytes("VmHWM")
    store.close()
    return before, peak


@pytest.mark.slow
def test_round_trip_of_a_large_tensor_needs_no_second_copy(store: Store) -> None:
    address = store.address
    arguments = [address.endpoint, address.access_key, address.secret_key, address.bucket]

    done = subprocess.run(
        [sys.executable, __file__, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=True,
        capture_output=True,
    )

    before, peak = json.loads(done.stdout)
    extra_bytes = peak - before - NUM_TENSOR_BYTES
    assert -MIB < extra_bytes <= 32 * MIB


if __name__ == "__main__":
    own_address = StoreAddress(*sys.argv[1:])
    round_trip(own_address, MIB)  # loads what is loaded lazily
    print(json.dumps(round_trip(own_address, NUM_TENSOR_BYTES)))
