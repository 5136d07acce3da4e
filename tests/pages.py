"""What the tests of the page share: its server, a gateway at the wire, runs as peers leave them."""

import json
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import requests
from msgspec.structs import replace

from peer import messages
from peer.config import RunConfig
from peer.messages import MemberRecord
from peer.records.phases import PHASES
from peer.store import keys
from peer.store.retry import Patience, poll
from peer.store.s3 import Store, StoreAddress

PATIENT = Patience(total_seconds=60.0, first_seconds=0.05, longest_seconds=0.2)
GIBIBYTE = 1 << 30


def until(probe: Callable[[], Any], patience: Patience = PATIENT) -> Any:
    """Return the first true result of `probe`; the test fails if there is none within a minute."""
    found = poll(lambda: probe() or None, patience)
    assert found is not None
    return found


@dataclass
class Page:
    """A page's server."""

    process: subprocess.Popen[bytes]
    log_path: Path
    url: str = ""

    @property
    def log(self) -> str:
        return self.log_path.read_text()

    def get(self, path: str, **arguments: Any) -> requests.Response:
        return requests.get(f"{self.url}{path}", timeout=20, **arguments)

    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = self.get("/api/state").json()
        return found

    def source(self, name: str) -> dict[str, Any]:
        return next((source for source in self.state()["sources"] if source["name"] == name), {})

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(timeout=30)


StartPage = Callable[..., Page]


@dataclass
class FakeGateway:
    """Answers as a gateway does, with whatever a test puts into it."""

    metrics: str = ""
    functions: list[dict[str, Any]] = field(default_factory=list)
    pages: dict[str, str] = field(default_factory=dict)
    url: str = ""

    def add_function(self, name: str, **values: float) -> None:
        """Add samples of one function; keys are metric names."""
        label = json.dumps(f"{name}.openfaas-fn", ensure_ascii=False)
        self.metrics += "".join(
            f"{metric}{{function_name={label}}} {value}\n" for metric, value in values.items()
        )


@dataclass
class Runs:
    """Runs in a store, and on this machine, as peers leave them."""

    address: StoreAddress
    directory: Path

    def __post_init__(self) -> None:
        self.store = Store(self.address)

    @property
    def options(self) -> list[object]:
        secret = self.directory.parent / "secret-key"
        secret.write_text(self.address.secret_key)
        return [
            *("--store", self.address.endpoint, "--bucket", self.address.bucket),
            *("--store-access-key", self.address.access_key, "--store-secret-key-file", secret),
        ]

    def create(self, name: str, num_peers: int = 2, rounds: int = 20) -> RunConfig:
        config = RunConfig(
            run=name,
            dataset="synthetic-640-1x20x20",
            num_peers=num_peers,
            rounds=rounds,
            batch_size=16,
            batches_per_round=1,
            batches_per_invocation=1,
            initial_weights="sha256:0",
            initial_weights_bytes=1,
        )
        self.store.put_message(keys.run_config(name), config)
        return config

    def beat(self, run: str, peer: int, counter: int, **changes: Any) -> None:
        """Write a member object."""
        record = MemberRecord(
            run=run, peer=peer, generation=0, incarnation="a", counter=counter, host="here", state="running"
        )
        body = json.loads(messages.encode(replace(record))) | changes
        self.store.put_bytes(keys.member(run, peer), json.dumps(body).encode().ljust(1024))

    def write_round(self, run: str, peer: int, number: int, **changes: Any) -> None:
        """Append a line to the run's `rounds.jsonl`."""
        folder = self.directory / run
        folder.mkdir(parents=True, exist_ok=True)
        line = {
            "run": run,
            "peer": peer,
            "round": number,
            "time": 1_800_000_000.0 + number,
            "loss": 2.0 / (number + 1),
            "accuracy": number / (number + 1),
            "phase_seconds": dict.fromkeys(PHASES, 0.1),
            "invocations": 2,
            "retries": {},
            "object_bytes": {"put": 1000},
        } | changes
        with (folder / "rounds.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
