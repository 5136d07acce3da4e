"""Fixtures for the whole tree: real object stores on this machine."""

import itertools
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

# before torch is imported: peers are forked from this process, which must never have had two OpenMP threads
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"

import hypothesis
import pytest
import starved_run as starving
from harness import IMPATIENT, LocalPlatform, Runner
from parts import missing
from starved_run import StarvedRun

from peer.config import GatewayAddress
from peer.session import Surroundings
from peer.store.retry import Patience
from peer.store.s3 import Store, StoreAddress
from peer.store.servers import (
    LOOPBACK,
    Credentials,
    ServerKind,
    find_minio,
    free_port,
    start_server,
    wait_until_ready,
)

hypothesis.settings.register_profile("peerless", deadline=None, derandomize=True, database=None)
hypothesis.settings.load_profile("peerless")

_bucket_numbers = itertools.count(1)


@dataclass
class StoreServer:
    """A store on this machine that a test may kill and start again on the same port and data."""

    kind: ServerKind
    data_dir: Path
    credentials: Credentials = Credentials("peerless", "a-secret-for-tests")
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> StoreAddress:
        endpoint = f"http://{LOOPBACK}:{self.port}"
        return StoreAddress(endpoint, self.credentials.access_key, self.credentials.secret_key)

    @property
    def log_path(self) -> Path:
        return self.data_dir / "server.log"

    def start(self, *, wait: bool = True) -> None:
        self.process = start_server(self.kind, self.data_dir, self.port, self.credentials, self.log_path)
        if wait:
            store = Store(self.address)
            wait_until_ready(self.process, store, self.log_path)
            store.close()

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def new_address(self) -> StoreAddress:
        """Return an address with a bucket of its own, which exists."""
        address = replace(self.address, bucket=f"test-{next(_bucket_numbers)}")
        store = Store(address)
        store.ensure_bucket()
        store.close()
        return address


def make_store_server(kind: ServerKind, data_dir: Path) -> StoreServer:
    """Return a started server; skips the test if there is no MinIO and everything is not required."""
    if kind is ServerKind.MINIO and find_minio() is None:
        missing("no minio program: scripts/install-minio.sh installs it")
    server = StoreServer(kind, data_dir)
    server.start()
    return server


def _session_server(kind: ServerKind, directories: pytest.TempPathFactory) -> Iterator[StoreServer]:
    server = make_store_server(kind, directories.mktemp(kind))
    yield server
    server.kill()


@pytest.fixture(scope="session")
def minio_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    yield from _session_server(ServerKind.MINIO, tmp_path_factory)


@pytest.fixture(scope="session")
def nanio_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StoreServer]:
    yield from _session_server(ServerKind.NANIO, tmp_path_factory)


@pytest.fixture(params=list(ServerKind))
def store_server(request: pytest.FixtureRequest) -> StoreServer:
    """Each of the two servers; shared by the session, so do not kill it."""
    server: StoreServer = request.getfixturevalue(f"{request.param}_server")
    return server


@pytest.fixture
def store(store_server: StoreServer) -> Iterator[Store]:
    """A fresh bucket on each of the two servers."""
    store = Store(store_server.new_address(), patience=Patience(total_seconds=10.0))
    yield store
    store.close()


@pytest.fixture(params=list(ServerKind))
def mortal_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StoreServer]:
    """A server of each kind that this test alone uses: it may be killed and started again."""
    server = make_store_server(request.param, tmp_path)
    yield server
    server.kill()


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPlatform]:
    """Store and gateway with the functions of stack.yml, two gradient replicas; shared: do not hurt it."""
    yield from _platform(tmp_path_factory.mktemp("platform"))


@pytest.fixture
def mortal_platform(tmp_path: Path) -> Iterator[LocalPlatform]:
    """A platform that this test alone uses."""
    yield from _platform(tmp_path / "platform")


def _platform(directory: Path) -> Iterator[LocalPlatform]:
    directory.mkdir(exist_ok=True)
    platform = LocalPlatform(directory)
    try:
        platform.up()
        yield platform
    finally:
        platform.down()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests of the starved run last: its training loads the machine from the first to the end."""
    items.sort(key=lambda item: "starved_run" in getattr(item, "fixturenames", ()))


@pytest.fixture(scope="session")
def starved_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StarvedRun]:
    """A training that goes on, short of memory, under a real Prometheus; takes three minutes to begin."""
    with starving.begun(tmp_path_factory.mktemp("starved")) as run:
        yield run


@pytest.fixture(scope="module")
def local_runner(nanio_server: StoreServer, tmp_path_factory: pytest.TempPathFactory) -> Runner:
    """Runs that compute in the peers; needs a store only. A bucket for all tests of a module."""
    directory = tmp_path_factory.mktemp("runs")
    address = nanio_server.new_address()
    return Runner(Surroundings(address, GatewayAddress(""), IMPATIENT, 60.0, directory))
