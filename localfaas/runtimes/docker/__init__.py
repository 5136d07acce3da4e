"""The Docker runtime: replicas are containers of the Docker Engine on this machine."""

from localfaas.runtimes.docker.runtime import DockerRuntime, connect_docker

__all__ = ["DockerRuntime", "connect_docker"]
