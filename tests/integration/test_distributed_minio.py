"""A training on a MinIO of four servers, on a platform started by hand: a server is killed on the way.

Four machines have a server and a drive each, started as deploy/minio/minio.service says; a fifth has the
gateway. All know the store by one name with four addresses, as deploy/README.md says. The peers are on the
fifth machine, or one on each of the four.
"""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from configparser import RawConfigParser
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

GATEWAY_MACHINE = 0
SERVERS = (1, 2, 3, 4)
ROUNDS = 12
FAULT_AFTER_ROUND = 3
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
_ESTABLISHED = "01"  # in /proc/net/tcp
RUN_OPTIONS = ["--peers", "4", "--dataset", "synthetic-640-1x20x20", "--rounds", str(ROUNDS)]
RUN_OPTIONS += ["--model-arguments", "{input_size: 20}", "--batch-size", "16", "--evaluate-every", "4"]
LONG = Patience(total_seconds=240.0, longest_seconds=0.2)


@dataclass
class Site:
    """Four machines with a server of MinIO each, and one with a gateway."""

    directory: Path
    machines: Machines = field(init=False)
    servers: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)
    commands: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.machines = Machines(self.directory, len(SERVERS))
        self.gateway_url = f"http://{self.machines.address(GATEWAY_MACHINE)}:{free_port()}"
        self.secret_file = self.directory / "secret-key"
        self.secret_file.write_text(SECRET_KEY)

    def up(self) -> None:
        self.machines.up({"minio.test": SERVERS} | {f"minio-{each}.example": [each] for each in SERVERS})
        for number in SERVERS:
            self.start_server(number)
        for number in SERVERS:
            assert poll(lambda number=number: self.status_of(number, "cluster") == 200 or None, LONG)
        self.localfaas("build")
        _, host, port = self.gateway_url.replace("//", "").split(":")
        serve = ["localfaas", "serve", "--host", host, "--port", port, *self._state()]
        self.start("gateway", serve)
        assert poll(lambda: (self.directory / "state" / "basic-auth-password").exists() or None, LONG)
        self.localfaas("deploy", "--gateway", self.gateway_url, "--wait", "120")

    def down(self) -> None:
        for command in reversed(self.commands):  # what came later needs the gateway
            command.terminate()
            command.wait()
        for server in self.servers.values():
            server.kill()
            server.wait()
        self.machines.down()

    def start_server(self, number: int) -> None:
        """Start what the unit starts, with this machine's MinIO and a folder as its drive."""
        unit = RawConfigParser(strict=False)
        unit.read(CHECKOUT / "deploy/minio/minio.service")
        _, *arguments = unit["Service"]["ExecStart"].split()
        certificates = arguments.index("--certs-dir") + 1
        arguments[certificates] = str(self.directory / "no-certificates")
        environment = os.environ | dict(each.split("=") for each in unit["Service"]["Environment"].split())
        environment |= {"MINIO_ROOT_USER": ACCESS_KEY, "MINIO_ROOT_PASSWORD": SECRET_KEY}
        environment["MINIO_CI_CD"] = "on"  # the drives are folders of one disk
        folder = self.directory / f"drive-{number}"
        folder.mkdir(exist_ok=True)
        drive = (folder, unit["Service"]["ReadWritePaths"])
        with (self.directory / f"server-{number}.log").open("ab") as log:
            program = [str(find_minio()), *arguments]
            self.servers[number] = self.machines.start(number, program, environment, log, drive)

    def start(
        self, name: str, arguments: list[str], machine: int = GATEWAY_MACHINE
    ) -> subprocess.Popen[bytes]:
        """Start `python -m …`, with its output in a file of this name."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("PEERLESS_")}
        environment |= {"PEERLESS_STORE_ORIGINS": STORE}
        with self._output(name).open("wb") as output:
            command = self.machines.start(machine, [sys.executable, "-m", *arguments], environment, output)
        self.commands.append(command)
        return command

    def localfaas(self, command: str, *options: str) -> None:
        stack = ["-f", str(CHECKOUT / "stack.yml"), *self._state()]
        process = self.start(f"localfaas-{command}", ["localfaas", command, *stack, *options])

        assert process.wait(timeout=300) == 0, self._output(f"localfaas-{command}").read_text()

    def addresses(self, machine: int) -> list[str]:
        """Return the options of a peer's command line that say where everything is."""
        options = ["--gateway", self.gateway_url, "--store", STORE, "--store-access-key", ACCESS_KEY]
        options += ["--gateway-password-file", str(self.directory / "state" / "basic-auth-password")]
        options += ["--store-secret-key-file", str(self.secret_file), "--json"]
        options += ["--runs-dir", str(self.directory / f"runs-{machine}")]
        return [*options, "--state-dir", str(self.directory / "nothing-here")]

    def train(self, run: str) -> subprocess.Popen[bytes]:
        """Start all peers beside the gateway."""
        train = ["peer", "train", "--run", run, *self.addresses(GATEWAY_MACHINE), *RUN_OPTIONS]
        return self.start(f"{run}-0", train)

    def peer(self, run: str, machine: int) -> subprocess.Popen[bytes]:
        """Start one peer; the first begins the run, the others take its options."""
        options = RUN_OPTIONS if machine == SERVERS[0] else []
        peer = ["peer", "peer", run, "--rank", str(machine - 1), *self.addresses(machine), *options]
        return self.start(f"{run}-{machine}", peer, machine)

    def weights(self, run: str, machine: int, process: subprocess.Popen[bytes]) -> str:
        """Return the SHA-256 of the weights that a run ended with on a machine."""
        assert process.wait(timeout=600) == 0, self._output(f"{run}-{machine}").read_text()
        summary = json.loads((self.directory / f"runs-{machine}" / run / "summary.json").read_text())
        return str(summary["weights_sha256"])

    def rounds(self, run: str, machine: int) -> list[dict[str, Any]]:
        """Return the records of a run that are there now."""
        path = self.directory / f"runs-{machine}" / run / "rounds.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.exists() else []
        return [json.loads(line) for line in lines if line.endswith("\n")]

    def kill_server_during(self, run: str, machine: int, victim: int) -> int:
        """Kill a server once a run is well on its way, and show that the run was not over then.

        Returns how many connections from the gateway's machine the server had.
        """
        assert poll(lambda: is_past(self.rounds(run, machine), FAULT_AFTER_ROUND) or None, LONG)
        connections = self._num_connections(victim)
        self.servers[victim].kill()
        self.servers[victim].wait()
        assert not is_past(self.rounds(run, machine), ROUNDS - 1)
        return connections

    def status_of(self, number: int, path: str) -> int:
        """Return the HTTP status that a server answers a health check with; 0 if it does not answer."""
        url = f"http://minio-{number}.example:9000/minio/health/{path}"
        return int(self._answer(GATEWAY_MACHINE, [sys.executable, "-I", "-S", "-c", _STATUS, url]))

    def is_whole(self) -> bool:
        """Return whether each server sees so many of the others that any one may go."""
        return all(self.status_of(number, "cluster?maintenance=true") == 200 for number in SERVERS)

    def _num_connections(self, number: int) -> int:
        client = socket.inet_aton(self.machines.address(GATEWAY_MACHINE))[::-1].hex().upper()
        listed = self._answer(number, ["cat", "/proc/net/tcp6"])  # MinIO listens to both IPv6 and IPv4
        sockets = [line.split() for line in listed.splitlines()]
        return sum(
            local.endswith(f":{9000:04X}") and remote.split(":")[0].endswith(client) and state == _ESTABLISHED
            for _, local, remote, state, *_ in sockets
        )

    def _answer(self, machine: int, command: list[str]) -> str:
        with (self.directory / "answer").open("w+") as output:
            self.machines.start(machine, command, os.environ, output.buffer).wait()
            output.seek(0)
            return output.read()

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
    return site.weights("undisturbed", GATEWAY_MACHINE, site.train("undisturbed"))


def test_server_in_use_that_is_killed_changes_no_bit(site: Site, undisturbed: str) -> None:
    victim = SERVERS[0]  # the first address of the name that the peers have
    training = site.train("without-one")

    connections = site.kill_server_during("without-one", GATEWAY_MACHINE, victim)
    weights = site.weights("without-one", GATEWAY_MACHINE, training)

    assert connections > 0
    assert len(site.rounds("without-one", GATEWAY_MACHINE)) == 4 * ROUNDS
    assert weights == undisturbed
    assert_is_missed_and_comes_back(site, victim)


def test_one_peer_a_machine_and_another_server_killed_change_no_bit(site: Site, undisturbed: str) -> None:
    peers = {machine: site.peer("apart", machine) for machine in SERVERS}

    site.kill_server_during("apart", SERVERS[0], victim=SERVERS[2])
    weights = {site.weights("apart", machine, process) for machine, process in peers.items()}

    assert weights == {undisturbed}
    assert [len(site.rounds("apart", machine)) for machine in SERVERS] == [ROUNDS] * 4
    assert_is_missed_and_comes_back(site, SERVERS[2])


def assert_is_missed_and_comes_back(site: Site, victim: int) -> None:
    """Show that a server is away, that no other may be, and that it comes back."""
    assert [site.status_of(number, "live") for number in SERVERS].count(0) == 1
    assert not site.is_whole()
    site.start_server(victim)
    assert poll(lambda: site.is_whole() or None, LONG)


def is_past(records: list[dict[str, Any]], round: int) -> bool:
    return any(record["round"] >= round for record in records)
