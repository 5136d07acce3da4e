"""The MinIO image of deploy/, and four containers as the StatefulSet of deploy/ describes them, on Docker.

What Kubernetes adds (names, secrets, volumes) comes from Docker's own means here.
"""

import os
import secrets
import shutil
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from docker_images import docker, require_docker
from harness import CHECKOUT
from parts import missing

from peer.store.retry import Patience, poll
from peer.store.s3 import Store, StoreAddress
from peer.store.servers import find_minio

pytestmark = pytest.mark.slow

KEYS = {"access-key": "peerless", "secret-key": "a-secret-for-tests"}
LONG = Patience(total_seconds=120.0, longest_seconds=0.2)


@dataclass
class Cluster:
    """The pods, by their ordinals."""

    name: str
    """Of image and network, and the beginning of the containers'."""

    stateful_set: dict[str, Any]

    def build(self, context: Path) -> None:
        program = find_minio()
        if program is None:
            missing("no minio program: scripts/install-minio.sh installs it")
        shutil.copy(program, context / "minio")
        shutil.copy(CHECKOUT / "deploy/minio/Dockerfile", context)
        docker("build", "--quiet", "--tag", self.name, str(context))

    def start(self, ordinal: int, drive: Path) -> None:
        pod = self.stateful_set["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        user, group = (pod["securityContext"][key] for key in ("runAsUser", "runAsGroup"))
        drive.mkdir()
        os.chown(drive, user, group)
        host = f"minio-{ordinal}.{self.stateful_set['spec']['serviceName']}.openfaas.svc.cluster.local"
        options = ["--network", self.name, "--network-alias", host, "--user", f"{user}:{group}"]
        options += ["--read-only", "--tmpfs", "/tmp", "--volume", f"{drive}:/data"]
        options += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        options += ["--env", "MINIO_CI_CD=on"]  # the drives are folders of one disk
        for variable in container["env"]:
            value = variable.get("value") or KEYS[variable["valueFrom"]["secretKeyRef"]["key"]]
            options += ["--env", f"{variable['name']}={value}"]
        docker("run", "--detach", "--name", f"{self.name}-{ordinal}", *options, self.name, *container["args"])

    def url(self, ordinal: int) -> str:
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return f"http://{docker('inspect', '--format', form, f'{self.name}-{ordinal}')}:9000"

    def answers(self, ordinal: int, path: str) -> bool | None:
        """Return whether a pod answers 200; None, to be polled, if not."""
        try:
            with urllib.request.urlopen(self.url(ordinal) + path, timeout=5) as response:
                return response.status == 200 or None
        except OSError:
            return None

    def remove(self, num_pods: int) -> None:
        for ordinal in range(num_pods):
            docker("rm", "--force", "--volumes", f"{self.name}-{ordinal}")
        docker("network", "rm", self.name)
        docker("image", "rm", "--force", self.name)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    require_docker()
    documents = yaml.safe_load_all((CHECKOUT / "deploy/kubernetes/minio.yaml").read_text())
    (stateful_set,) = (each for each in documents if each["kind"] == "StatefulSet")
    cluster = Cluster(f"peerless-test-{secrets.token_hex(4)}", stateful_set)
    context = tmp_path / "context"
    context.mkdir()
    cluster.build(context)
    docker("network", "create", cluster.name)
    ordinals = range(stateful_set["spec"]["replicas"])
    try:
        for ordinal in ordinals:
            cluster.start(ordinal, tmp_path / f"drive-{ordinal}")
        yield cluster
    finally:
        cluster.remove(len(ordinals))


def test_pods_of_the_manifest_make_one_store_that_lives_on_without_one(cluster: Cluster) -> None:
    (container,) = cluster.stateful_set["spec"]["template"]["spec"]["containers"]
    probes = [container[kind]["httpGet"]["path"] for kind in ("readinessProbe", "livenessProbe")]
    for ordinal in range(4):
        for path in (*probes, "/minio/health/cluster"):
            assert poll(lambda ordinal=ordinal, path=path: cluster.answers(ordinal, path), LONG)
    store = Store(StoreAddress(cluster.url(0), KEYS["access-key"], KEYS["secret-key"]), patience=LONG)
    store.ensure_bucket()
    store.put("runs/test/before", [b"written by four"], 15)

    docker("kill", f"{cluster.name}-3")
    store.put("runs/test/after", [b"written by three"], 16)

    other = Store(StoreAddress(cluster.url(1), KEYS["access-key"], KEYS["secret-key"]), patience=LONG)
    assert bytes(other.get("runs/test/before")) == b"written by four"
    assert bytes(other.get("runs/test/after")) == b"written by three"
    assert poll(lambda: cluster.answers(1, "/minio/v2/metrics/cluster"), LONG)
    assert docker("inspect", "--format", "{{.State.Status}}", f"{cluster.name}-3") == "exited"
    other.close()
    store.close()
