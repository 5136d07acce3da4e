"""How fast each codec is on one core, how much smaller it makes a gradient, and how far off it is.

A gradient of normal float32 values is encoded, and decoded and folded into a mean, as a peer does with each
part that it fetches (8 MiB: `peer.exchange.parts`). CPU time of the one thread, minima over the
repetitions, the codecs in turn; megabytes are of float32, before encoding or after decoding.

    python benchmarks/compression.py [--megabytes 8] [--repetitions 15] [CODEC ...]

Prints a table on stderr, and one JSON line with `encode_mb_s`, `decode_add_mb_s`, `ratio` (bytes before to
bytes of the object) and `error` (norm of what is lost to the norm of the gradient) by codec, and the host's
facts. Goals, both ways: fp16 and bf16 5,000 MB/s, int8 and qsgd:8 1,000, topk:0.01 500; `misses` names what
falls short. The allocator keeps what it freed, as in functions (`stack.yml`): else page faults take as long.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from host import host_facts

from peer.aggregation import Gradient, Summand, WeightedMean
from peer.compression.codecs import Codec, codec_named
from peer.compression.noise import Noise
from peer.learning.threads import use_one_thread
from peer.store.gradients import encode_gradient, open_gradient

CODECS = (
    *("none", "fp16", "bf16", "int8", "qsgd:8", "qsgd:4", "qsgd:2"),
    *("topk:0.1", "topk:0.01", "topk:0.001", "sparseloco"),
)
GOALS_MB_S = {"fp16": 5000, "bf16": 5000, "int8": 1000, "qsgd:8": 1000, "topk:0.01": 500}
_KEEPING_ALLOCATOR = "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=4294967296"
_SEED = 7


def cpu_seconds(action: Callable[[], object]) -> float:
    """Return the CPU time that this thread takes for `action`."""
    start = time.thread_time()
    action()
    return time.thread_time() - start


class Subject:
    """One codec at work on one gradient.

    Args:
        name: the codec's.
        gradient: compressed again and again.
    """

    def __init__(self, name: str, gradient: Gradient) -> None:
        self.codec: Codec = codec_named(name)
        self._gradient = gradient
        encoded = encode_gradient(gradient, self.codec, Noise(_SEED))
        self._object = bytearray(b"".join(encoded.chunks))
        self._mean = WeightedMean()
        self._mean.add(self._received())
        self.encode_seconds: list[float] = []
        self.decode_seconds: list[float] = []

    def measure(self) -> None:
        """Encode once, and decode and fold once."""
        self.encode_seconds.append(
            cpu_seconds(lambda: encode_gradient(self._gradient, self.codec, Noise(_SEED)))
        )
        self.decode_seconds.append(cpu_seconds(lambda: self._mean.add(self._received())))

    def result(self) -> dict[str, float]:
        """Return the row of this codec."""
        values = self._gradient.values
        megabytes = values.nbytes / 1e6
        lost = self._received().decoded().values - values
        return {
            "encode_mb_s": megabytes / min(self.encode_seconds),
            "decode_add_mb_s": megabytes / min(self.decode_seconds),
            "ratio": values.nbytes / len(self._object),
            "error": float(lost.norm() / values.norm()),
        }

    def _received(self) -> Summand:
        # the mean writes into what it is given, and an uncompressed gradient is a view on its object
        source = bytearray(self._object) if self.codec.name == "none" else self._object
        return open_gradient(source, 3, self.codec)


def measure(names: list[str], num_megabytes: int, repetitions: int) -> dict[str, dict[str, float]]:
    """Return the row of each codec, by its name."""
    values = torch.randn(num_megabytes * (1 << 18), generator=torch.Generator().manual_seed(_SEED))
    gradient = Gradient(values, torch.empty(0), torch.empty(0, dtype=torch.int64), 1)
    subjects = {name: Subject(name, gradient) for name in names}
    for _ in range(repetitions):
        for subject in subjects.values():
            subject.measure()
    return {name: subject.result() for name, subject in subjects.items()}


def misses(rows: dict[str, dict[str, float]]) -> list[str]:
    """Return which goals do not hold here."""
    return [
        f"{name} {key}"
        for name, goal in GOALS_MB_S.items()
        for key in ("encode_mb_s", "decode_add_mb_s")
        if name in rows and rows[name][key] < goal
    ]


def report(rows: dict[str, dict[str, float]]) -> dict[str, Any]:
    """Print the table on stderr, and return what the JSON line says."""
    print(f"{'codec':12} {'encode':>11} {'decode, add':>11} {'ratio':>8} {'error':>8}", file=sys.stderr)
    for name, row in rows.items():
        print(
            f"{name:12} {row['encode_mb_s']:6.0f} MB/s {row['decode_add_mb_s']:6.0f} MB/s "
            f"{row['ratio']:8.2f} {row['error']:8.5f}",
            file=sys.stderr,
        )
    rounded = {
        name: {key: float(f"{number:.5g}") for key, number in row.items()} for name, row in rows.items()
    }
    return {"benchmark": "compression", "codecs": rounded, "misses": misses(rows), "host": host_facts()}


def main() -> None:
    """Print the table on stderr and the JSON line on stdout."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("codecs", nargs="*", metavar="CODEC", default=list(CODECS))
    parser.add_argument("--megabytes", type=int, default=8)
    parser.add_argument("--repetitions", type=int, default=15)
    options = parser.parse_args()
    if min(options.megabytes, options.repetitions) < 1:
        parser.error("--megabytes and --repetitions are at least 1")
    if "GLIBC_TUNABLES" not in os.environ:
        # read before main, so only a fresh process has it
        environment = {**os.environ, "GLIBC_TUNABLES": _KEEPING_ALLOCATOR}
        os.execve(sys.executable, [sys.executable, *sys.argv], environment)
    use_one_thread()
    print(json.dumps(report(measure(options.codecs, options.megabytes, options.repetitions))))


if __name__ == "__main__":
    main()
