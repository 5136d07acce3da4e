"""A training on a MinIO of four servers, on a platform started by hand: a server is killed on the way.

Four machines have a server and a drive each; a fifth has the gateway and the peers, and knows the store by
one name with four addresses, as deploy/minio/README.md says.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from harness import CHECKOUT
from machines import Machines, require_machines
from parts import missing

from peer.store.retry import Patience, poll
from peer.store.servers import find_minio, free_port

pytestmark = pytest.mark.slow

NUM_SERVERS = 4
ROUNDS = 16
FAULT_AFTER_ROUND = 4
STORE = "http://minio.test:9000"
ACCESS_KEY, SECRET_KEY = "peerless", "a-secret-for-tests"
_STATUS = """
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=5).status)
except urllib.error.HTTPError as error:
    print(error.code)
except OSError:
    print(0)
"""
LONG = Patience(total_seconds=120.0, longest_seconds=0.2)


@dataclass
class Site:
    """Four machines with a server of MinIO each, and one with a gateway, from which everything is done."""

    directory: Path
    machines: Machines = field(init=False)
    servers: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    gateway: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        self.machines = Machines(self.directory, NUM_SERVERS)
        self.gateway_url = f"http://127.0.0.1:{free_port()}"
        self.secret_file = self.directory / "secret-key"
        self.secret_file.write_text(SECRET_KEY)

    def up(self) -> None:
        numbers = range(1, NUM_SERVERS + 1)
        self.machines.up({"minio.test": list(numbers)} | {f"minio-{number}": [number] for number in numbers})
        for number in numbers:
            self.start_server(number)
        for number in numbers:
            assert poll(lambda number=number: self.status_of(number, "cluster") == 200 or None, LONG)
        self.localfaas("build")
        port = self.gateway_url.rpartition(":")[2]
        self.gateway = self.start("gateway", ["localfaas", "serve", "--port", port, *self._state()])
        assert poll(lambda: (self.directory / "state" / "basic-auth-password").exists() or None, LONG)
        self.localfaas("deploy", "--gateway", self.gateway_url, "--wait", "120")

    def down(self) -> None:
        if self.gateway is not None:
            self.gateway.terminate()
            self.gateway.wait()
        for server in self.servers.values():
            server.kill()
            server.wait()
        self.machines.down()

    def start_server(self, number: int) -> None:
        drives = [f"http://minio-{other}:9000{self._drive(other)}" for other in range(1, NUM_SERVERS + 1)]
        self._drive(number).mkdir(exist_ok=True)
        environment = os.environ | {
            "MINIO_ROOT_USER": ACCESS_KEY,
            "MINIO_ROOT_PASSWORD": SECRET_KEY,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
            "MINIO_CI_CD": "on",  # drives may be on the machine's root file system
        }
        with (self.directory / f"server-{number}.log").open("ab") as log:
            program = [str(find_minio()), "server", "--quiet", "--address", ":9000", *drives]
            self.servers[number] = self.machines.start(number, program, environment, log)

    def start(self, name: str, arguments: list[str]) -> subprocess.Popen[bytes]:
        """Start `python -m …` beside the gateway, with its output in a file of this name."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PEERLESS_")}
        environment |= {"PEERLESS_STORE_ORIGINS": STORE}
        with self._output(name).open("wb") as output:
            return self.machines.start(0, [sys.executable, "-m", *arguments], environment, output)

    def localfaas(self, command: str, *options: str) -> None:
        stack = ["-f", str(CHECKOUT / "stack.yml"), *self._state()]
        process = self.start(f"localfaas-{command}", ["localfaas", command, *stack, *options])

        assert process.wait(timeout=180) == 0, self._output(f"localfaas-{command}").read_text()

    def train(self, run: str) -> subprocess.Popen[bytes]:
        """Start `peerless train` as on a cluster, told where gateway and store are."""
        options = ["--gateway", self.gateway_url, "--store", STORE, "--store-access-key", ACCESS_KEY]
        options += ["--gateway-password-file", str(self.directory / "state" / "basic-auth-password")]
        options += ["--store-secret-key-file", str(self.secret_file)]
        options += ["--runs-dir", str(self.directory / "runs")]
        options += ["--state-dir", str(self.directory / "nothing-here"), "--run", run, "--peers", "4"]
        options += ["--dataset", "synthetic-640-1x20x20", "--model-arguments", "{input_size: 20}"]
        options += ["--rounds", str(ROUNDS), "--batch-size", "16", "--evaluate-every", "4", "--json"]
        return self.start(run, ["peer", "train", *options])

    def summary(self, run: str, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        """Return what a run says of itself at its end."""
        assert process.wait(timeout=300) == 0, self._output(run).read_text()
        summary: dict[str, Any] = json.loads((self.directory / "runs" / run / "summary.json").read_text())
        return summary

    def rounds(self, run: str) -> list[dict[str, Any]]:
        """Return the records of a run that are there now."""
        path = self.directory / "runs" / run / "rounds.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def status_of(self, number: int, path: str) -> int:
        """Return the HTTP status that a server answers a health check with; 0 if it does not answer."""
        url = f"http://minio-{number}:9000/minio/health/{path}"
        with (self.directory / "health.log").open("w+b") as output:
            process = self.machines.start(0, [sys.executable, "-I", "-c", _STATUS, url], os.environ, output)
            process.wait()
            output.seek(0)
            return int(output.read())

    def _drive(self, number: int) -> Path:
        return self.directory / f"drive-{number}"

    def _output(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def _state(self) -> list[str]:
        return ["--state-dir", str(self.directory / "state")]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    require_machines()
    if find_minio() is None:
        missing("no minio program: scripts/install-minio.sh installs it")
    site = Site(tmp_path_factory.mktemp("site"))
    try:
        site.up()
        yield site
    finally:
        site.down()


@pytest.fixture(scope="module")
def undisturbed(site: Site) -> str:
    return str(site.summary("undisturbed", site.train("undisturbed"))["weights_sha256"])


@pytest.mark.parametrize("victim", [1, 3], ids=["the-one-in-use", "another-one"])
def test_server_that_is_killed_changes_no_bit(site: Site, undisturbed: str, victim: int) -> None:
    run = f"without-{victim}"
    training = site.train(run)
    assert poll(lambda: is_past(site.rounds(run), FAULT_AFTER_ROUND) or None, LONG)

    site.servers[victim].kill()
    site.servers[victim].wait()
    num_before = len(site.rounds(run))
    summary = site.summary(run, training)

    records = site.rounds(run)
    assert num_before < len(records) == 4 * ROUNDS
    assert [site.status_of(number, "live") for number in range(1, 5)].count(0) == 1
    # the others know: they could not do without one more
    assert site.status_of(2, "cluster?maintenance=true") == 412
    if victim == 1:
        assert any("StoreUnreachable" in record["retries"] for record in records)
    assert summary["weights_sha256"] == undisturbed
    site.start_server(victim)
    assert poll(lambda: site.status_of(2, "cluster?maintenance=true") == 200 or None, LONG)


def is_past(records: list[dict[str, Any]], round: int) -> bool:
    return any(record["round"] >= round for record in records)
