"""How close the store comes to a bare HTTP PUT and GET of the same bytes on the same server.

peerless: encode, checksum, put · get, verify the checksum, decode. Bare: `http.client` on one kept connection
with a presigned URL, one buffer out and one `readinto` in. Both sides in one process, interleaved; ratios of
minima.

    python benchmarks/store.py [--kind minio|nanio] [--repetitions 7] [--directory DIR]

Prints a table, and one JSON line with `put_ratio` and `get_ratio` (the worst over the sizes; goal: at most
1.15), `extra_memory_mb` (goal: at most 32) and the host's facts. The goal's checksum is xxh3, which guards
what a round exchanges; SHA-256, for weights and checkpoints, is in rows of its own.
"""

import argparse
import http.client
import json
import multiprocessing
import random
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import torch
from host import host_facts

from peer.store.checksums import checksum
from peer.store.s3 import Store, StoreAddress
from peer.store.servers import (
    LOOPBACK,
    Credentials,
    ServerKind,
    free_port,
    start_server,
    wait_until_ready,
)
from peer.store.tensors import decode, encode

MEGABYTE = 1 << 20
ALGORITHMS = ("xxh3", "sha256")


class BarePath:
    """The least that a transfer can be: one connection, one buffer, no checks but the status."""

    def __init__(self, store: Store, key: str) -> None:
        self._put_url = store.sign_put(key, 3600)
        self._get_url = store.sign_get(key, 3600)
        self._connection = http.client.HTTPConnection(urlsplit(self._put_url).netloc)

    def put(self, data: bytearray) -> None:
        """Send `data` in one call."""
        self._request("PUT", self._put_url, data).read()

    def get(self) -> bytearray:
        """Return the object, read in one call."""
        response = self._request("GET", self._get_url, None)
        buffer = bytearray(response.length or 0)
        response.readinto(buffer)
        response.read()
        return buffer

    def _request(self, method: str, url: str, body: bytearray | None) -> http.client.HTTPResponse:
        parts = urlsplit(url)
        self._connection.request(method, f"{parts.path}?{parts.query}", body)
        response = self._connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"{method} answered {response.status}")
        return response


@contextmanager
def running_store(kind: ServerKind, data_dir: Path) -> Iterator[Store]:
    """Give a store on a server that runs as long as the block."""
    credentials = Credentials("benchmark", "benchmark-secret")
    port = free_port()
    process = start_server(kind, data_dir, port, credentials, data_dir / "log")
    address = StoreAddress(f"http://{LOOPBACK}:{port}", credentials.access_key, credentials.secret_key)
    store = Store(address)
    try:
        wait_until_ready(process, store, data_dir / "log")
        store.ensure_bucket()
        yield store
    finally:
        store.close()
        process.kill()
        process.wait()


def seconds(action: Callable[[], object]) -> float:
    """Return how long `action` took; what it returns is freed outside of the measured time."""
    start = time.perf_counter()
    result = action()
    elapsed = time.perf_counter() - start
    del result
    return elapsed


def measure(store: Store, num_megabytes: int, repetitions: int) -> dict[str, float]:
    """Return the shortest seconds of each way to move one tensor, by its name."""
    tensor = torch.randn(num_megabytes * MEGABYTE // 4)
    encoded = encode({"gradient": tensor})
    data = bytearray(b"".join(encoded.chunks))
    expected = {algorithm: checksum(algorithm, [data]) for algorithm in ALGORITHMS}
    bare = BarePath(store, "bare")

    def put(algorithm: str) -> None:
        encoded = encode({"gradient": tensor})
        checksum(algorithm, encoded.chunks)
        store.put(algorithm, encoded.chunks, encoded.length)

    def get(algorithm: str) -> torch.Tensor:
        buffer = store.get(algorithm, len(data), expected[algorithm])
        return decode(buffer).tensors["gradient"]

    ways: dict[str, Callable[[], object]] = {"put bare": lambda: bare.put(data), "get bare": bare.get}
    for algorithm in ALGORITHMS:
        ways[f"put {algorithm}"] = partial(put, algorithm)
        ways[f"get {algorithm}"] = partial(get, algorithm)
    for name in sorted(ways, reverse=True):
        ways[name]()
    taken: dict[str, list[float]] = {name: [] for name in ways}
    shuffled = random.Random(0)
    for _ in range(repetitions):
        for name in shuffled.sample(sorted(ways), len(ways)):
            taken[name].append(seconds(ways[name]))
    return {name: min(times) for name, times in taken.items()}


def extra_memory_mb(address: StoreAddress, num_megabytes: int) -> float:
    """Return the peak memory of putting and getting a tensor, beyond the tensor and its received copy."""
    # a fresh process, whose memory is nobody else's
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as processes:
        return processes.submit(_measure_memory, address, num_megabytes).result()


def _measure_memory(address: StoreAddress, num_megabytes: int) -> float:
    store = Store(address)
    tensor = torch.ones(num_megabytes * MEGABYTE // 4)
    warm = encode({"gradient": tensor[:1000]})
    store.put("memory", warm.chunks, warm.length)
    decode(store.get("memory"))
    before = _memory_bytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    encoded = encode({"gradient": tensor})
    expected = encoded.xxh3()
    store.put("memory", encoded.chunks, encoded.length)
    buffer = store.get("memory", encoded.length, expected)
    received = decode(buffer).tensors["gradient"]
    return (_memory_bytes("VmHWM") - before - received.nbytes) / MEGABYTE


def _memory_bytes(name: str) -> int:
    match = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(match[1]) * 1024 if match else 0


def main() -> None:
    """Print the table on stderr and the JSON line on stdout."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", type=ServerKind, default=ServerKind.MINIO)
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--megabytes", default="3,32,512")
    parser.add_argument("--directory", help="where the server keeps its data; /dev/shm leaves the disk out")
    options = parser.parse_args()
    sizes = [int(size) for size in options.megabytes.split(",")]
    worst: dict[str, float] = {}
    with (
        tempfile.TemporaryDirectory(dir=options.directory) as data_dir,
        running_store(options.kind, Path(data_dir)) as store,
    ):
        print(f"{'MB':>5} {'way':12} {'ms':>9} {'MB/s':>7} {'ratio':>6}", file=sys.stderr)
        for size in sizes:
            # more of the short ones: the minimum of a few would be noise
            times = measure(store, size, options.repetitions * max(1, min(40, 400 // size)))
            for name, taken in sorted(times.items(), reverse=True):
                ratio = taken / times[f"{name[:3]} bare"]
                worst[name] = max(worst.get(name, 0.0), ratio)
                row = f"{size:5} {name:12} {1e3 * taken:9.1f} {size / taken:7.0f} {ratio:6.2f}"
                print(row, file=sys.stderr)
        extra_mb = extra_memory_mb(store.address, max(sizes))
    print(f"peak memory beyond tensor and received copy: {extra_mb:.1f} MB", file=sys.stderr)
    result = {
        "benchmark": "store",
        "server": str(options.kind),
        "put_ratio": round(worst["put xxh3"], 3),
        "get_ratio": round(worst["get xxh3"], 3),
        "put_ratio_sha256": round(worst["put sha256"], 3),
        "get_ratio_sha256": round(worst["get sha256"], 3),
        "extra_memory_mb": round(extra_mb, 1),
        "host": host_facts(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
