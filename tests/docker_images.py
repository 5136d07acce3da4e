"""Docker for tests: images FROM scratch that hold busybox and shell scripts, built here and never pulled."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from parts import missing, program

CONTEXT = Path(__file__).parent / "containers"


def docker(*arguments: str) -> str:
    """Return what the `docker` program says; it must succeed."""
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"docker {' '.join(arguments)}: {done.stderr}"
    return done.stdout.strip()


def require_docker() -> None:
    """End the test where no Docker daemon answers, or there is no busybox to put into images."""
    program("docker", "apt-get install docker.io")
    if subprocess.run(["docker", "info"], capture_output=True, timeout=60).returncode:
        missing("no Docker daemon answers: start dockerd, or use a user of the group docker")
    if not Path("/bin/busybox").exists():
        missing("no /bin/busybox: apt-get install busybox-static")


@contextmanager
def busybox_image(dockerfile: str | None = None) -> Iterator[str]:
    """Yield the name of a new image of `containers/`, its own Dockerfile or another; removed afterwards."""
    name = f"localfaas-test-{uuid4().hex[:12]}:latest"
    with TemporaryDirectory() as folder:
        shutil.copytree(CONTEXT, folder, dirs_exist_ok=True)
        shutil.copy("/bin/busybox", folder)
        if dockerfile is not None:
            (Path(folder) / "Dockerfile").write_text(dockerfile)
        docker("build", "--quiet", "--tag", name, folder)
    yield name
    docker("image", "rm", "--force", name)


def inspect(container: str) -> dict[str, Any]:
    """Return everything that Docker says of a container."""
    found: dict[str, Any] = json.loads(docker("inspect", container))[0]
    return found


def docker_stats_bytes(container: str) -> float:
    """Return the memory that `docker stats` shows for a container now."""
    shown = docker("stats", "--no-stream", "--format", "{{.MemUsage}}", container).partition("/")[0].strip()
    number = shown.rstrip("KMGTiB")
    return float(number) * 1_024 ** "BKMGT".index(shown[len(number)])


def containers(identity: str) -> list[str]:
    """Return the ids of a state directory's containers, running or not, sorted."""
    found = docker("ps", "--all", "--quiet", "--no-trunc", "--filter", f"label=localfaas.state={identity}")
    return sorted(found.split())


def networks(identity: str) -> list[str]:
    """Return the networks of a state directory."""
    return docker("network", "ls", "--quiet", "--filter", f"label=localfaas.state={identity}").split()


def control_groups(part: str) -> list[str]:
    """Return the control groups that have this in their path, in every hierarchy."""
    return [place for place, _, _ in os.walk("/sys/fs/cgroup") if part in place]
