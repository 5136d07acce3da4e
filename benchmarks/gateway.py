"""What the gateway costs a call, how many calls it carries, and what it takes while it does nothing.

Each figure is taken beside the same calls made to the same worker program over bare loopback. Gateway,
workers and load come from one process tree, both sides take turns, and ratios are of minima. The load is made
by this process with one protocol object a connection, which sends its next request as soon as the reply is
whole: above 20,000 requests a second on a core, so it is not what is measured.

    python benchmarks/gateway.py [--repetitions 7] [--calls 2000]

Prints a table on stderr and one JSON line on stdout with the host's facts and

    p50_overhead_ms          what the gateway adds to the median call, one client      (goal: at most 0.6)
    requests_per_second      16 clients                                                (goal: at least 4,000)
    cpu_us_per_request       CPU time of the gateway's process, 16 clients
    concurrent_240_seconds   240 calls of one second at once, 240 replicas             (goal: at most 1.10)
    concurrent_1000_seconds  1,000 of them, 1,000 replicas                             (goal: at most 1.5)
    idle_mb                  resident memory of the gateway's process, no function     (goal: at most 60)

Warm parents are processes of their own, one a set of preloaded modules; `warm_parent_mb` is this benchmark's.
"""

import argparse
import asyncio
import base64
import json
import os
import re
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import uvloop
from host import host_facts

from localfaas.images import ImageEntry, save_image

WORKER = Path(__file__).resolve().with_name("gateway_worker.py")
NUM_CLIENTS = 16
READY_SECONDS = 300.0


class Client(asyncio.Protocol):
    """One connection that makes so many calls, one after the other, and takes their times."""

    def __init__(self, request: bytes, num_calls: int) -> None:
        self.seconds: list[float] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._request = request
        self._left = num_calls
        self._reply = b""
        self._started = 0.0

    def connection_made(self, transport: Any) -> None:
        """Note the connection; `go` begins."""
        self._transport = transport

    def go(self) -> None:
        """Send the next request."""
        self._started = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Take a part of a reply; once it is whole, go on."""
        self._reply += data
        head, end, body = self._reply.partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        if not end or length is None or len(body) < int(length[1]):
            return
        self.seconds.append(time.perf_counter() - self._started)
        if not head.startswith(b"HTTP/1.1 200"):
            self._end(RuntimeError(head.decode()))
            return
        self._reply = b""
        self._left -= 1
        if self._left:
            self.go()
        else:
            self._end(None)

    def connection_lost(self, error: Exception | None) -> None:
        """Fail where calls are left."""
        self._end(error or ConnectionError("the server ended the connection"))

    def _end(self, error: Exception | None) -> None:
        if not self.done.done():
            if error:
                self.done.set_exception(error)
            else:
                self.done.set_result(None)
        self._transport.close()


@dataclass(frozen=True)
class Load:
    """The time of every call, and of all together."""

    seconds: list[float]
    total_seconds: float


@dataclass(frozen=True)
class Target:
    """An address to call, and the path under which it has the worker."""

    port: int
    path: str

    def load(self, num_clients: int, num_calls: int, query: str = "") -> Load:
        """Return what so many calls took, made by so many clients; they are connected before it counts."""
        return uvloop.run(self._load(num_clients, num_calls // num_clients, query))

    async def _load(self, num_clients: int, calls_each: int, query: str) -> Load:
        loop = asyncio.get_running_loop()
        request = f"GET {self.path}{query} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode()
        clients = []
        for _ in range(num_clients):
            _, client = await loop.create_connection(
                lambda: Client(request, calls_each), "127.0.0.1", self.port
            )
            clients.append(client)
        started = time.perf_counter()
        for client in clients:
            client.go()
        await asyncio.gather(*(client.done for client in clients))
        total_seconds = time.perf_counter() - started
        return Load([seconds for client in clients for seconds in client.seconds], total_seconds)


@contextmanager
def bare_worker() -> Iterator[Target]:
    """Yield a worker that listens at a loopback port, as long as the block."""
    with socket.create_server(("127.0.0.1", 0), backlog=2_048) as listening:
        command = [sys.executable, str(WORKER)]
        # The worker wants its socket at descriptor 3; a shell puts it there.
        shell = ["sh", "-c", f'exec "$@" 3<&{listening.fileno()}', "sh", *command]
        with subprocess.Popen(shell, pass_fds=(listening.fileno(),)) as process:
            try:
                yield Target(listening.getsockname()[1], "/")
            finally:
                process.kill()


class Gateway:
    """A gateway of its own, and what this benchmark asks it."""

    def __init__(self, process: "subprocess.Popen[bytes]", state: Path) -> None:
        url = json.loads((state / "gateway.json").read_text())["url"]
        password = (state / "basic-auth-password").read_text()
        self._headers = {"Authorization": "Basic " + base64.b64encode(f"admin:{password}".encode()).decode()}
        self._url = url
        self.pid = process.pid
        self.port = urlsplit(url).port or 0

    def ask(self, path: str, body: object = None, method: str | None = None) -> bytes:
        """Return the body of a reply that must be a success."""
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(self._url + path, data, self._headers, method=method), timeout=120) as reply:
            return bytes(reply.read())

    @contextmanager
    def function(self, name: str, num_replicas: int) -> Iterator[Target]:
        """Yield a function with so many replicas that answer, as long as the block."""
        number = str(num_replicas)
        labels = {"com.openfaas.scale.min": number, "com.openfaas.scale.max": number}
        self.ask("/system/functions", {"service": name, "image": "worker", "labels": labels})
        deadline = time.monotonic() + READY_SECONDS
        while json.loads(self.ask(f"/system/function/{name}"))["availableReplicas"] < num_replicas:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{num_replicas} replicas were not available in {READY_SECONDS:g} s")
            time.sleep(0.1)
        yield Target(self.port, f"/function/{name}")
        self.ask("/system/functions", {"functionName": name}, "DELETE")


@contextmanager
def running_gateway(state: Path) -> Iterator[Gateway]:
    """Yield a gateway that knows the worker as an image; nothing of it runs afterwards."""
    images = state / "images"
    images.mkdir(parents=True)
    command = ("python", str(WORKER))
    preload = ("heapq", "selectors", "socket")
    save_image(images, ImageEntry("worker", str(WORKER.parent), command, {}, preload))
    arguments = ["serve", "--port", "0", "--state-dir", str(state)]
    with subprocess.Popen(
        [sys.executable, "-m", "localfaas", *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield Gateway(process, state)
        finally:
            process.terminate()


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process."""
    match = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(match[1]) / 1024 if match else 0.0


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def children_of(pid: int) -> list[int]:
    """Return the processes that a process has started."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            found.append(int(path.parent.name))
    return found


def measure_calls(gateway: Gateway, bare: Target, repetitions: int, num_calls: int) -> dict[str, float]:
    """Return the best median of one client's calls and the best rate of many, of both sides."""
    p50s: dict[str, list[float]] = {"bare": [], "gateway": []}
    rates: dict[str, list[float]] = {"bare": [], "gateway": []}
    cpu_us: list[float] = []
    with gateway.function("call", max(2, len(os.sched_getaffinity(0)))) as function:
        sides = {"bare": bare, "gateway": function}
        for side in sides.values():
            side.load(NUM_CLIENTS, num_calls)
        for _ in range(repetitions):
            for name, side in sides.items():
                p50s[name].append(1e3 * statistics.median(side.load(1, num_calls).seconds))
            for name, side in sides.items():
                cpu_before = cpu_seconds(gateway.pid)
                load = side.load(NUM_CLIENTS, 4 * num_calls)
                rates[name].append(len(load.seconds) / load.total_seconds)
                if name == "gateway":
                    cpu_us.append(1e6 * (cpu_seconds(gateway.pid) - cpu_before) / len(load.seconds))
    return {
        "p50_bare_ms": min(p50s["bare"]),
        "p50_gateway_ms": min(p50s["gateway"]),
        "p50_overhead_ms": min(p50s["gateway"]) - min(p50s["bare"]),
        "p50_ratio": min(p50s["gateway"]) / min(p50s["bare"]),
        "requests_per_second_bare": max(rates["bare"]),
        "requests_per_second": max(rates["gateway"]),
        "requests_per_second_ratio": max(rates["gateway"]) / max(rates["bare"]),
        "cpu_us_per_request": min(cpu_us),
    }


def measure_concurrent(gateway: Gateway, bare: Target, number: int, repetitions: int) -> dict[str, float]:
    """Return the shortest time of so many one-second calls at once, of both sides."""
    seconds: dict[str, list[float]] = {"bare": [], "gateway": []}
    with gateway.function(f"sleep-{number}", number) as function:
        for _ in range(repetitions):
            for name, side in (("bare", bare), ("gateway", function)):
                seconds[name].append(side.load(number, number, "?sleep").total_seconds)
    name = f"concurrent_{number}"
    return {
        f"{name}_seconds": min(seconds["gateway"]),
        f"{name}_bare_seconds": min(seconds["bare"]),
        f"{name}_ratio": min(seconds["gateway"]) / min(seconds["bare"]),
    }


def measure_idle(gateway: Gateway) -> dict[str, float]:
    """Return the resident memory of a gateway without functions, and of its warm parent once there is one."""
    gateway.ask("/healthz")
    gateway.ask("/system/functions")
    figures = {"idle_mb": resident_mb(gateway.pid)}
    with gateway.function("idle", 1):
        figures["warm_parent_mb"] = max(map(resident_mb, children_of(gateway.pid)), default=0.0)
    return figures


def main() -> None:
    """Print the table on stderr and the JSON line on stdout."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repetitions", type=int, default=7)
    parser.add_argument("--calls", type=int, default=2_000)
    parser.add_argument("--concurrent", default="240,1000", help="numbers of calls at once")
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        bare = stack.enter_context(bare_worker())
        gateway = stack.enter_context(running_gateway(Path(folder) / "state"))
        figures = measure_idle(gateway)
        figures |= measure_calls(gateway, bare, options.repetitions, options.calls)
        for number in map(int, filter(None, options.concurrent.split(","))):
            figures |= measure_concurrent(gateway, bare, number, max(2, options.repetitions // 2))
        figures["busiest_mb"] = resident_mb(gateway.pid)
    for name, value in figures.items():
        print(f"{name:30} {value:10.3f}", file=sys.stderr)
    rounded = {name: round(value, 3) for name, value in figures.items()}
    print(json.dumps({"benchmark": "gateway", **rounded, "host": host_facts()}))


if __name__ == "__main__":
    main()
