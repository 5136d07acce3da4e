"""The Docker runtime: replicas are containers of the Docker Engine on this machine."""

from localfaas.runtimes.docker.build import build_image
from localfaas.runtimes.docker.runtime import DockerRuntime, connect_docker

__all__ = ["DockerRuntime", "build_image", "connect_docker"]
