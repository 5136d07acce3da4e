"""The functions' images, built from stack.yml with the template's Dockerfile, and run by Docker.

No image can be pulled where the tests run, so their base is made of this machine's Python (base_image.py). It
takes some minutes and 4 GB of disk, which are given back.
"""

import os
import secrets
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import docker
import pytest
import torch
from base_image import import_base_image
from conftest import StoreServer
from docker.models.containers import Container
from harness import CHECKOUT, IMPATIENT, Runner
from parts import missing

from localfaas.build import build_function
from localfaas.config import StatePaths
from localfaas.stack import Function, load_stack
from peer import messages
from peer.config import GatewayAddress
from peer.learning.datasets import catalogue
from peer.learning.datasets.manifest import SHUFFLED, TRAIN
from peer.learning.flat import Layout
from peer.learning.models import initialise
from peer.learning.shards import locate, plan_shards
from peer.learning.worker import Worker
from peer.messages import (
    Batch,
    DataParts,
    EvaluateReply,
    EvaluateRequest,
    GradientReply,
    GradientRequest,
    ModelSpec,
    RemoteObject,
)
from peer.session import Surroundings
from peer.store import tensors
from peer.store.retry import Patience, poll
from peer.store.s3 import Store, StoreAddress
from peer.store.servers import find_minio, free_port

pytestmark = pytest.mark.slow

RESULT_KEY = "runs/test/result"
VALID_SECONDS = 600
LONG = Patience(total_seconds=120.0, longest_seconds=0.5)


@dataclass
class Images:
    """What was built, and what runs of it."""

    client: docker.DockerClient
    prefix: str
    functions: dict[str, Function]

    def build(self, paths: StatePaths) -> None:
        """Build the image of each function without any network, which shows that nothing else is fetched."""
        import_base_image(self.client, f"{self.prefix}/base", "test")
        stack = load_stack(CHECKOUT / "stack.yml", {"PEERLESS_IMAGE_PREFIX": self.prefix})
        self.functions |= stack.functions
        for function in self.functions.values():
            context = build_function(stack, function, paths).directory
            self.client.images.build(
                path=context,
                tag=function.image,
                buildargs={
                    "BASE": f"{self.prefix}/base:test",
                    "TORCH_VERSION": torch.__version__.partition("+")[0],
                },
                network_mode="none",
                forcerm=True,
            )

    @property
    def tags(self) -> list[str]:
        return [function.image for function in self.functions.values()]

    def remove(self) -> None:
        for tag in [*self.tags, f"{self.prefix}/base:test"]:
            if self.client.images.list(tag):
                self.client.images.remove(tag, force=True)

    @contextmanager
    def running(self, name: str, environment: dict[str, str]) -> Iterator["Replica"]:
        """Run an image as OpenFaaS would: not root, its root file system read-only but for /tmp."""
        function = self.functions[name]
        port = free_port()
        container = self.client.containers.run(
            function.image,
            detach=True,
            environment={**function.environment, **environment, "port": str(port)},
            network_mode="host",  # the store listens on loopback
            read_only=True,
            tmpfs={"/tmp": ""},
            cap_drop=["ALL"],
            security_opt=["no-new-privileges"],
            mem_limit=function.limits["memory"].replace("i", ""),
            name=f"{self.prefix}-{name}",
        )
        try:
            yield Replica(container, f"http://127.0.0.1:{port}")
        finally:
            container.remove(force=True)


@dataclass
class Replica:
    """One running container."""

    container: Container
    url: str

    def is_healthy(self) -> bool | None:
        self.container.reload()
        assert self.container.status in ("created", "running"), self.container.logs().decode()
        return self.container.attrs["State"]["Health"]["Status"] == "healthy" or None

    def call(self, request: messages.Message) -> bytes:
        body: bytes = urllib.request.urlopen(self.url, messages.encode(request), timeout=120).read()
        return body


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    images = Images(docker_client(), f"peerless-test-{secrets.token_hex(4)}", {})
    paths = StatePaths(tmp_path_factory.mktemp("images"))
    paths.create()
    try:
        images.build(paths)
        yield images
    finally:
        images.remove()
        images.client.close()


def docker_client() -> docker.DockerClient:
    try:
        client = docker.from_env(timeout=600)
        client.ping()
    except docker.errors.DockerException as error:
        missing(f"no Docker Engine answers: {error}")
    return client


@pytest.fixture
def store(minio_server: StoreServer) -> Iterator[Store]:
    store = Store(minio_server.new_address())
    yield store
    store.close()


def request_fields(store: Store) -> dict[str, Any]:
    """Return what both requests have: a model's weights and two batches, all in the store."""
    manifest = catalogue.push(store, "synthetic-100", held_out=0)
    network = initialise(ModelSpec(name="cnn"), 10, 1, manifest.shape)
    encoded = tensors.encode(Layout.of(network).flatten(network).tensors())
    store.put("runs/test/weights", encoded.chunks, encoded.length)
    (shard,) = plan_shards(manifest, 1, "iid", 1)
    numbers, located = locate([shard.batch(index, 32)[1] for index in range(2)], shard.samples_per_part)
    stored = manifest.splits[TRAIN].orders[SHUFFLED]

    def remote(key: str, length: int, checksum: str) -> RemoteObject:
        return RemoteObject(url=store.sign_get(key, VALID_SECONDS), length=length, checksum=checksum)

    parts = [stored.parts[number] for number in numbers]
    return {
        "protocol": messages.PROTOCOL_VERSION,
        "run": "test",
        "round": 0,
        "peer": 0,
        "invocation": 0,
        "attempt": "0",
        "model": ModelSpec(name="cnn"),
        "loss": "cross_entropy",
        "weights": remote("runs/test/weights", encoded.length, encoded.sha256()),
        "data": DataParts(
            shape=manifest.shape,
            label_bytes=manifest.label_bytes,
            num_classes=manifest.num_classes,
            mean=manifest.mean,
            std=manifest.std,
            parts=[remote(part.key, part.length, part.checksum) for part in parts],
        ),
        "batches": [Batch(index=index, ranges=ranges) for index, ranges in enumerate(located)],
    }


def test_images_compute_the_bits_that_this_process_computes(images: Images, store: Store) -> None:
    torch.set_num_threads(1)
    fields = request_fields(store)
    result_url = store.sign_put(RESULT_KEY, VALID_SECONDS)
    gradient = GradientRequest(**fields, micro_batch=0, seed=1, result_url=result_url)
    evaluate = EvaluateRequest(**fields)
    allowed = {"peerless_store_origins": store.address.endpoint}

    with images.running("gradient", allowed) as gradients, images.running("evaluate", allowed) as evaluations:
        assert poll(gradients.is_healthy, LONG)
        assert poll(evaluations.is_healthy, LONG)
        computed = messages.decode(gradients.call(gradient), GradientReply)
        evaluated = messages.decode(evaluations.call(evaluate), EvaluateReply)
        written = [replica.container.diff() for replica in (gradients, evaluations)]
        users = [replica.container.exec_run("id -u").output.strip() for replica in (gradients, evaluations)]

    kept: list[bytes] = []
    local = Worker(
        lambda remote: store.get(urlsplit(remote.url).path.split("/", 2)[2]),
        lambda _, encoded: kept.append(b"".join(encoded.chunks)),
    )
    expected = local.gradient(gradient)
    assert (computed.checksum, computed.training) == (expected.checksum, expected.training)
    assert bytes(store.get(RESULT_KEY, computed.length)) == kept[0]
    assert evaluated.evaluation == local.evaluate(evaluate).evaluation
    assert written == [None, None]
    assert users == [b"12000", b"12000"]


@pytest.fixture
def reachable_store(images: Images, tmp_path: Path) -> Iterator[StoreAddress]:
    """MinIO at an address of this machine that containers reach, and other machines do not."""
    program = find_minio()
    if program is None:
        missing("no minio program: scripts/install-minio.sh installs it")
    (bridge, *_) = images.client.networks.get("bridge").attrs["IPAM"]["Config"]
    host = bridge.get("Gateway") or str(next(ip_network(bridge["Subnet"]).hosts()))
    port = free_port(host)
    address = StoreAddress(f"http://{host}:{port}", "peerless", "a-secret-for-tests")
    server = subprocess.Popen(
        [program, "server", "--quiet", "--address", f"{host}:{port}", tmp_path / "data"],
        env={**os.environ, "MINIO_ROOT_USER": address.access_key, "MINIO_ROOT_PASSWORD": address.secret_key},
    )
    store = Store(address, patience=LONG)
    try:
        store.ensure_bucket()
        yield address
    finally:
        store.close()
        server.kill()
        server.wait()


@contextmanager
def gateway(runtime: str, images: Images, store: StoreAddress, directory: Path) -> Iterator[GatewayAddress]:
    """Run a gateway with the functions of stack.yml, started as a user does; SIGTERM removes what it made."""
    state = directory / runtime
    url = f"http://127.0.0.1:{free_port()}"
    stack = ["-f", str(CHECKOUT / "stack.yml"), "--state-dir", str(state)]
    environment = os.environ | {
        "PEERLESS_IMAGE_PREFIX": images.prefix,
        "PEERLESS_STORE_ORIGINS": store.endpoint,
    }

    def localfaas(*arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-m", "localfaas", *arguments], env=environment)

    assert localfaas("build", *stack).wait(timeout=60) == 0
    port = url.rpartition(":")[2]
    server = localfaas("serve", "--runtime", runtime, "--port", port, "--state-dir", str(state))
    password = StatePaths(state).password
    try:
        assert poll(lambda: password.exists() or None, LONG)
        assert localfaas("deploy", *stack, "--gateway", url, "--wait", "120").wait(timeout=180) == 0
        yield GatewayAddress(url, "admin", password.read_text().strip())
    finally:
        server.terminate()
        server.wait(timeout=60)


def test_training_by_containers_ends_with_the_weights_of_one_by_processes(
    images: Images, reachable_store: StoreAddress, tmp_path: Path
) -> None:
    weights = {}
    for runtime in ("process", "docker"):
        with gateway(runtime, images, reachable_store, tmp_path) as address:
            surroundings = Surroundings(reachable_store, address, IMPATIENT, 120.0, tmp_path)
            results = Runner(surroundings).train(f"by-{runtime}")
            if runtime == "docker":
                running = {container["ImageID"] for container in images.client.api.containers()}
                assert {images.client.images.get(tag).id for tag in images.tags} <= running
            weights[runtime] = {result.weights.checksum for result in results}

    assert len(weights["process"]) == 1
    assert weights["docker"] == weights["process"]
