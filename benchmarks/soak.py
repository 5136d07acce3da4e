"""Whether a gateway loses a request, or leaks, while functions come, go, are scaled and are killed.

So many invocations of eight functions, made by a few clients, and now and then something happens to one of
them: a replica is killed (SIGKILL), their number is changed, it is deployed again, it is removed and comes
back. What happens is drawn from a seed; what the clients meet meanwhile is the machine's.

    python benchmarks/soak.py [--invocations 50000] [--functions 8] [--clients 16] [--seed 1]

Every request has to end in an answer: 200, or an error of the gateway, JSON that names its kind. Prints a
table on stderr and one JSON line on stdout: answers by status, what happened, and memory, descriptors,
processes and disk of the gateway before and after, each with all functions deployed anew and idle. Exits 1
where a request was lost, or more was left than may be.
"""

import argparse
import contextlib
import http.client
import json
import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.error import HTTPError

from gateway import Gateway, children_of, resident_mb, running_gateway
from host import host_facts

MAX_REPLICAS = 3
# One of those happens once in so many invocations.
INVOCATIONS_AN_EVENT = 50
READY_SECONDS = 120.0
# What a gateway that has served may keep: allocator's pages, statistics, log lines.
MAX_GROWTH = {"resident_mb": 32.0, "descriptors": 8.0, "processes": 0.0, "disk_mb": 24.0}


@dataclass
class Tally:
    """What clients were answered, and what was done meanwhile; shared by threads."""

    statuses: Counter[int] = field(default_factory=Counter)
    events: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, status: int, body: bytes, trouble: str = "") -> None:
        """Count one request: its answer, or the trouble because of which it had none."""
        if not trouble and status != 200:
            with contextlib.suppress(ValueError, TypeError):
                trouble = "" if json.loads(body)["error"] else "an error without its kind"
        with self.lock:
            self.statuses[status] += 1
            if trouble:
                self.lost.append(trouble)


class Soak:
    """The functions of one gateway, and what is done to them."""

    def __init__(self, gateway: Gateway, num_functions: int, seed: int) -> None:
        self.names = [f"soak-{number}" for number in range(num_functions)]
        self.tally = Tally()
        self._gateway = gateway
        self._seed = seed
        # One at a time: two of them on one function would be each other's errors.
        self._turn = threading.Lock()

    def deploy(self, name: str, method: str = "POST") -> None:
        """Deploy a function with one replica, new or instead of what it was."""
        labels = {"com.openfaas.scale.min": "1", "com.openfaas.scale.max": str(MAX_REPLICAS)}
        specification = {"service": name, "image": "worker", "labels": labels}
        self._gateway.ask("/system/functions", specification, method)

    def settle(self) -> None:
        """Return once every function is deployed anew and has its one replica, and nothing else runs."""
        for name in self.names:
            with contextlib.suppress(HTTPError):
                self._gateway.ask("/system/functions", {"functionName": name}, "DELETE")
        wait_until(lambda: len(self.replica_pids()) == 0, "no replica is left")
        for name in self.names:
            self.deploy(name)
        wait_until(lambda: self._num_available() == len(self.names), "one replica of each function answers")

    def _num_available(self) -> int:
        functions = json.loads(self._gateway.ask("/system/functions"))
        return sum(function["availableReplicas"] for function in functions)

    def replica_pids(self) -> list[int]:
        """Return the process ids of all replicas, the children of the warm parents."""
        return [pid for parent in children_of(self._gateway.pid) for pid in children_of(parent)]

    def run(self, num_invocations: int, num_clients: int) -> None:
        """Make so many invocations; each client draws its own from the seed."""
        shares = [len(range(index, num_invocations, num_clients)) for index in range(num_clients)]
        with ThreadPoolExecutor(num_clients) as threads:
            list(threads.map(self._be_client, range(num_clients), shares))

    def _be_client(self, index: int, num_calls: int) -> None:
        draw = random.Random(f"{self._seed}-{index}")
        with contextlib.closing(
            http.client.HTTPConnection("127.0.0.1", self._gateway.port, timeout=120)
        ) as connection:
            for _ in range(num_calls):
                if draw.randrange(INVOCATIONS_AN_EVENT) == 0:
                    self._happen(draw)
                self._call(connection, draw.choice(self.names))

    def _call(self, connection: http.client.HTTPConnection, name: str) -> None:
        try:
            connection.request("POST", f"/function/{name}", b"x" * 100)
            reply = connection.getresponse()
            self.tally.add(reply.status, reply.read())
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            self.tally.add(0, b"", f"{name}: {error!r}")

    def _happen(self, draw: random.Random) -> None:
        """Do something to a function, while the other clients go on calling it."""
        name, event = draw.choice(self.names), draw.choice(("kill", "scale", "redeploy", "remove"))
        with self._turn:
            if event == "kill":
                pids = self.replica_pids()
                with contextlib.suppress(ProcessLookupError, IndexError):
                    os.kill(draw.choice(pids), 9)
            elif event == "scale":
                body = {"serviceName": name, "replicas": draw.randint(1, MAX_REPLICAS)}
                self._gateway.ask(f"/system/scale-function/{name}", body)
            elif event == "redeploy":
                self.deploy(name, "PUT")
            else:
                self._gateway.ask("/system/functions", {"functionName": name}, "DELETE")
                time.sleep(draw.uniform(0, 0.05))
                self.deploy(name)
        with self.tally.lock:
            self.tally.events[event] += 1


def wait_until(condition: Callable[[], bool], what: str) -> None:
    """Return once a condition holds; raise TimeoutError where it does not in two minutes."""
    deadline = time.monotonic() + READY_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"after {READY_SECONDS:g} s still not: {what}")
        time.sleep(0.1)


def take_figures(gateway: Gateway, soak: Soak, state: Path) -> dict[str, float]:
    """Return what the gateway takes now."""
    num_processes = len(children_of(gateway.pid)) + len(soak.replica_pids())
    num_bytes = 0
    for path in state.rglob("*"):
        # A temporary file may have gone.
        with contextlib.suppress(OSError):
            num_bytes += path.lstat().st_blocks * 512
    return {
        "resident_mb": resident_mb(gateway.pid),
        "descriptors": float(len(list(Path(f"/proc/{gateway.pid}/fd").iterdir()))),
        "processes": float(num_processes),
        "disk_mb": num_bytes / 2**20,
    }


def soak(num_invocations: int, num_functions: int, num_clients: int, seed: int) -> dict[str, object]:
    """Return the answers, the events, and the figures before and after; `problems` says what must not be."""
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        with running_gateway(state) as gateway:
            soaked = Soak(gateway, num_functions, seed)
            soaked.settle()
            # What the first calls allocate is no leak.
            soaked.run(min(500, num_invocations // 10), num_clients)
            soaked.settle()
            soaked.tally = tally = Tally()
            before = take_figures(gateway, soaked, state)
            started_at = time.monotonic()
            soaked.run(num_invocations, num_clients)
            seconds = time.monotonic() - started_at
            soaked.settle()
            after = take_figures(gateway, soaked, state)
    problems = [f"lost: {text}" for text in tally.lost[:10]]
    if sum(tally.statuses.values()) != num_invocations:
        problems.append(f"{sum(tally.statuses.values())} answers instead of {num_invocations}")
    problems += [
        f"{name} grew from {before[name]:.1f} to {after[name]:.1f}"
        for name, growth in MAX_GROWTH.items()
        if after[name] > before[name] + growth
    ]
    return {
        "invocations": num_invocations,
        "seconds": round(seconds, 1),
        "statuses": {str(status): count for status, count in sorted(tally.statuses.items())},
        "events": dict(sorted(tally.events.items())),
        "lost": len(tally.lost),
        "before": {name: round(value, 1) for name, value in before.items()},
        "after": {name: round(value, 1) for name, value in after.items()},
        "problems": problems,
    }


def main() -> None:
    """Print the table on stderr and the JSON line on stdout."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--invocations", type=int, default=50_000)
    parser.add_argument("--functions", type=int, default=8)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    result = soak(options.invocations, options.functions, options.clients, options.seed)
    for name, value in result.items():
        print(f"{name:12} {value}", file=sys.stderr)
    print(json.dumps({"benchmark": "soak", "seed": options.seed, **result, "host": host_facts()}))
    raise SystemExit(1 if result["problems"] else 0)


if __name__ == "__main__":
    main()
