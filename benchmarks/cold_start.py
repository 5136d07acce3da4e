"""How long a request waits for a new replica, forked from a warm parent or started by exec.

A function is scaled to zero; the next request starts a replica, and its reply ends the measurement: gateway,
fork or exec, imports, HTTP server, handler and reply. The handler imports what a gradient function does:
`peer.learning.warm`, torch with it; where that is not installed, flask stands for it. Forked and exec'd take
turns.

    python benchmarks/cold_start.py [--repetitions 21] [--exec-repetitions 5]

Prints a table on stderr and one JSON line on stdout with `forked_ms` (goal: at most 50), `exec_ms` and the
host's facts; both are medians.
"""

import argparse
import base64
import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from host import host_facts

REPOSITORY = Path(__file__).resolve().parents[1]
WAYS = ("forked", "exec")


def write_project(directory: Path, module: str) -> None:
    """Leave a stack of two functions that differ in how they start."""
    for way in WAYS:
        template = directory / "template" / way
        shutil.copytree(REPOSITORY / "template" / "peerless", template)
        preload = json.dumps(["flask", "waitress", module] if way == "forked" else [])
        (template / "template.yml").write_text(
            f"language: {way}\nfprocess: python index.py\npreload: {preload}\n"
        )
        handler = directory / f"{way}-handler"
        handler.mkdir()
        (handler / "handler.py").write_text(
            f"import {module}\n\n\ndef handle(event, context):\n    return 'ready'\n"
        )
    functions = {way: {"lang": way, "handler": f"./{way}-handler", "image": f"{way}:1"} for way in WAYS}
    (directory / "stack.yml").write_text(
        json.dumps({"provider": {"name": "openfaas"}, "functions": functions})
    )


def localfaas(directory: Path, *arguments: str) -> None:
    """Run a localfaas command to its end."""
    subprocess.run(
        [sys.executable, "-m", "localfaas", *arguments], cwd=directory, check=True, stdout=sys.stderr
    )


@contextmanager
def running_gateway(directory: Path) -> Iterator["Gateway"]:
    """Yield a gateway with both functions available; nothing of it runs afterwards."""
    localfaas(directory, "build")
    command = [sys.executable, "-m", "localfaas", "serve", "--port", "0"]
    with subprocess.Popen(
        command, cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        state = directory / ".localfaas"
        url = json.loads((state / "gateway.json").read_text())["url"]
        try:
            localfaas(directory, "deploy", "--gateway", url, "--wait", "120")
            yield Gateway(url, (state / "basic-auth-password").read_text())
        finally:
            process.terminate()


class Gateway:
    """The calls that this benchmark makes."""

    def __init__(self, url: str, password: str) -> None:
        self._url = url
        self._headers = {"Authorization": "Basic " + base64.b64encode(f"admin:{password}".encode()).decode()}

    def call(self, path: str, body: object = None) -> bytes:
        """Return the body of a reply that must be a success."""
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(self._url + path, data, self._headers), timeout=120) as reply:
            return bytes(reply.read())

    def cold_seconds(self, function: str) -> float:
        """Return the time from a request to its reply, where no replica was there before."""
        self.call(f"/system/scale-function/{function}", {"replicas": 0})
        while self._status(function)["availableReplicas"]:
            time.sleep(0.01)
        # The old replica's end is not what is measured.
        time.sleep(0.2)
        started = time.perf_counter()
        self.call(f"/function/{function}", {})
        return time.perf_counter() - started

    def warm_seconds(self, function: str) -> float:
        """Return the time from a request to its reply, where a replica waits."""
        started = time.perf_counter()
        self.call(f"/function/{function}", {})
        return time.perf_counter() - started

    def _status(self, function: str) -> Any:
        return json.loads(self.call(f"/system/function/{function}"))


def measure(gateway: Gateway, repetitions: dict[str, int]) -> dict[str, list[float]]:
    """Return milliseconds by way of starting, and `warm` ones to compare with."""
    times: dict[str, list[float]] = {"forked": [], "exec": [], "warm": []}
    for index in range(max(repetitions.values())):
        for way in WAYS:
            if index < repetitions[way]:
                times[way].append(1e3 * gateway.cold_seconds(way))
        times["warm"].append(1e3 * gateway.warm_seconds("forked"))
    return times


def main() -> None:
    """Print the table on stderr and the JSON line on stdout."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=21)
    parser.add_argument("--exec-repetitions", type=int, default=5)
    options = parser.parse_args()
    has_torch = importlib.util.find_spec("peer") is not None and importlib.util.find_spec("torch") is not None
    module = "peer.learning.warm" if has_torch else "flask"
    with tempfile.TemporaryDirectory() as folder:
        write_project(Path(folder), module)
        with running_gateway(Path(folder)) as gateway:
            times = measure(gateway, {"forked": options.repetitions, "exec": options.exec_repetitions})
    print(f"{'start':8} {'median ms':>10} {'min':>8} {'max':>8}", file=sys.stderr)
    for name, each in times.items():
        print(f"{name:8} {statistics.median(each):10.1f} {min(each):8.1f} {max(each):8.1f}", file=sys.stderr)
    result = {
        "benchmark": "cold_start",
        "module": module,
        **{f"{name}_ms": round(statistics.median(each), 1) for name, each in times.items()},
        "host": host_facts(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
