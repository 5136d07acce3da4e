"""What localfaas asks of the Docker Engine. Every call blocks: they are for threads.

Source: https://docs.docker.com/reference/api/engine/, by the `docker` SDK's low-level client.
"""

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import docker.errors
import requests
import urllib3
from docker.api.client import APIClient
from docker.utils import kwargs_from_env, parse_repository_tag

from localfaas.errors import ConfigurationError, RuntimeUnavailable
from localfaas.runtimes.docker.options import EngineFacts

_TIMEOUT_SECONDS = 60
_POOL_SIZE = 64
_RETRY_SECONDS = 0.5
_LOOPBACK = "127.0.0.1"
_FUNCTION_PORT = "8080/tcp"
_SIGNAL_BASE = 128


class EngineRefused(Exception):
    """The Engine answered that it does not do this; the text is its reason."""


class NoSuchObject(EngineRefused):
    """There is no such container, image or network."""


@dataclass(frozen=True)
class Container:
    """A container that exists."""

    id: str
    labels: Mapping[str, str]
    is_running: bool
    image_id: str


@dataclass(frozen=True)
class StartedContainer:
    """Where to find a container that runs."""

    id: str
    address: tuple[str, int]
    """Where its port 8080 is published; port 0 if it has ended already."""

    pid: int
    """Of its first process, as the Engine's machine counts."""


@dataclass(frozen=True)
class ContainerEnd:
    """How a container ended."""

    reason: str
    is_out_of_memory: bool = False


class Engine:
    """One Docker Engine, on this machine."""

    def __init__(self) -> None:
        """Connect to the Engine that DOCKER_HOST names, by default to the machine's.

        Raises:
            ConfigurationError: none answers, or this user may not use it.
        """
        address = kwargs_from_env()
        host = str(address.get("base_url", "unix:///var/run/docker.sock"))
        if not host.startswith(("unix://", "http+unix://")):
            raise ConfigurationError(
                f"DOCKER_HOST is {host}: functions are published on loopback, so the Docker daemon has to be "
                "this machine's; unset DOCKER_HOST"
            )
        try:
            self._api = APIClient(**address, timeout=_TIMEOUT_SECONDS, max_pool_size=_POOL_SIZE)
            self._info: dict[str, Any] = self._api.info()
        except (docker.errors.DockerException, requests.RequestException, OSError) as error:
            raise ConfigurationError(
                f"no Docker daemon answers at {host}: {_root_cause(error)}; start it, let this user "
                "use it (group docker), or take --runtime process"
            ) from error

    @property
    def facts(self) -> EngineFacts:
        """What the Engine says of where containers run."""
        return EngineFacts(int(self._info.get("NCPU") or 1), int(self._info.get("CgroupVersion") or 1))

    def find_image(self, name: str) -> str | None:
        """Return the id of a local image, None where there is none.

        Raises:
            EngineRefused: it is no image name.
            RuntimeUnavailable: the daemon does not answer.
        """
        try:
            with _translated():
                return str(self._api.inspect_image(name)["Id"])  # type: ignore[no-untyped-call]
        except NoSuchObject:
            return None

    def pull_image(self, name: str) -> str:
        """Return the id of an image that has been pulled; only the named tag.

        Raises:
            EngineRefused: the registry, or the way to it, has no such image.
            RuntimeUnavailable: the daemon does not answer.
        """
        repository, tag = parse_repository_tag(name)
        with _translated():
            for progress in self._api.pull(repository, tag or "latest", stream=True, decode=True):
                if reason := progress.get("error"):
                    raise EngineRefused(str(reason))
            return str(self._api.inspect_image(name)["Id"])  # type: ignore[no-untyped-call]

    def build_image(
        self, context: str, name: str, build_args: Mapping[str, str], on_line: Callable[[str], None]
    ) -> None:
        """Leave an image of that name, built from a folder with a Dockerfile in it.

        Args:
            context: the folder; its .dockerignore counts.
            name: of the image, with its tag.
            build_args: for the ARGs of the Dockerfile.
            on_line: takes what the Engine says meanwhile.

        Raises:
            EngineRefused: a step failed, or the Dockerfile is none; an older image of that name stays.
            RuntimeUnavailable: the daemon does not answer.
        """
        with _translated():
            # A step may be silent for as long as it takes, so there is no time-out.
            steps = self._api.build(
                path=context,
                tag=name,
                buildargs=dict(build_args),
                rm=True,
                forcerm=True,
                decode=True,
                timeout=None,
            )
            for step in steps:
                if reason := step.get("error"):
                    raise EngineRefused(str(reason))
                if line := str(step.get("stream", "")).rstrip():
                    on_line(line)

    def launch(
        self, name: str, options: Mapping[str, Any], host_options: Mapping[str, Any]
    ) -> StartedContainer:
        """Return a new container that has been started.

        Args:
            name: of the container; no other has it.
            options: arguments of the SDK's `create_container`.
            host_options: arguments of its `create_host_config`.

        Raises:
            EngineRefused: it cannot be made or started; nothing of it is left.
            RuntimeUnavailable: the daemon does not answer; the next start of a gateway removes what is left.
        """
        with _translated():
            host_config = self._api.create_host_config(**host_options)
            made = self._api.create_container(name=name, host_config=host_config, **options)
            try:
                self._api.start(made["Id"])
                return self.locate(str(made["Id"]))
            except BaseException:
                self.remove(str(made["Id"]))
                raise

    def locate(self, container_id: str) -> StartedContainer:
        """Return where a container that has been started is.

        Raises:
            NoSuchObject: it is not there.
            RuntimeUnavailable: the daemon does not answer.
        """
        with _translated():
            found = self._api.inspect_container(container_id)
        published = (found["NetworkSettings"]["Ports"] or {}).get(_FUNCTION_PORT) or [{"HostPort": 0}]
        return StartedContainer(
            container_id, (_LOOPBACK, int(published[0]["HostPort"])), int(found["State"]["Pid"])
        )

    def list_containers(self, label: str) -> list[Container]:
        """Return every container with a label such as `name=value`, running or not.

        Raises:
            RuntimeUnavailable: the daemon does not answer.
        """
        with _translated():
            found = self._api.containers(all=True, filters={"label": label})
        return [
            Container(each["Id"], each["Labels"], each["State"] == "running", each["ImageID"])
            for each in found
        ]

    def signal(self, container_id: str, number: signal.Signals) -> None:
        """Send a signal to a container; one that has ended gets none.

        Raises:
            RuntimeUnavailable: the daemon does not answer.
        """
        with suppress(EngineRefused), _translated():
            self._api.kill(container_id, number.name)

    def remove(self, container_id: str) -> None:
        """Leave nothing of a container: killed if it runs, with the volumes that it alone had.

        Raises:
            RuntimeUnavailable: the daemon does not answer.
        """
        with suppress(EngineRefused), _translated():
            self._api.remove_container(container_id, force=True, v=True)

    def stats(self, container_id: str) -> dict[str, Any]:
        """Return the Engine's own figures of a container; empty once it has ended.

        Raises:
            RuntimeUnavailable: the daemon does not answer.
        """
        try:
            with _translated():
                return dict(self._api.stats(container_id, stream=False, one_shot=True))
        except EngineRefused:
            return {}

    def ensure_network(self, name: str, labels: Mapping[str, str]) -> None:
        """Leave a bridge network of that name, whose containers do not reach each other.

        Raises:
            EngineRefused: it cannot be made.
            RuntimeUnavailable: the daemon does not answer.
        """
        with _translated():
            if any(each["Name"] == name for each in self._api.networks(names=[name])):
                return
            options = {"com.docker.network.bridge.enable_icc": "false"}
            self._api.create_network(name, "bridge", options, check_duplicate=True, labels=dict(labels))

    def remove_network(self, name: str) -> None:
        """Leave no network of that name; the Engine may have several.

        Raises:
            EngineRefused: containers are attached to it.
            RuntimeUnavailable: the daemon does not answer.
        """
        with suppress(NoSuchObject), _translated():
            for network in self._api.networks(names=[name]):
                if network["Name"] == name:
                    self._api.remove_network(network["Id"])

    def attend(
        self,
        container_id: str,
        since: datetime | None,
        on_line: Callable[[str, datetime], None],
        is_abandoned: Callable[[], bool],
    ) -> ContainerEnd:
        """Pass on what a container writes until it has ended and is removed; return how it ended.

        A daemon that goes away is waited for.

        Args:
            container_id: of a container that has been started.
            since: lines up to that moment are known already.
            on_line: takes each line and when it was written.
            is_abandoned: tells that nobody wants the container any more.
        """
        while True:
            try:
                for line, written_at in self._lines(container_id, since):
                    since = written_at
                    on_line(line, written_at)
                end = self._end_of(container_id)
                if end is not None or is_abandoned():
                    self.remove(container_id)
                    return end or ContainerEnd("abandoned")
            except NoSuchObject:
                return ContainerEnd("its container was removed")
            except (EngineRefused, RuntimeUnavailable):
                pass
            time.sleep(_RETRY_SECONDS)

    def close(self) -> None:
        """End every connection."""
        self._api.close()

    def _lines(self, container_id: str, since: datetime | None) -> Iterator[tuple[str, datetime]]:
        seconds = int(since.timestamp()) if since else None
        with _translated():
            pieces = self._api.logs(container_id, stream=True, follow=True, timestamps=True, since=seconds)
            for piece in pieces:
                moment, _, line = piece.decode(errors="replace").partition(" ")
                written_at = datetime.fromisoformat(moment)
                if since is None or written_at > since:
                    yield line.rstrip("\r\n"), written_at

    def _end_of(self, container_id: str) -> ContainerEnd | None:
        """Return how a container ended, None while it runs."""
        with _translated():
            state = self._api.inspect_container(container_id)["State"]
        if state["Running"] or state["Status"] == "created":
            return None
        return ContainerEnd(_reason(int(state["ExitCode"]), str(state["Error"])), bool(state["OOMKilled"]))


def _reason(exit_code: int, error: str) -> str:
    """Return what an exit code says; init and shells give 128 and the signal's number."""
    if error:
        return error
    with suppress(ValueError):
        return f"killed by {signal.Signals(exit_code - _SIGNAL_BASE).name}"
    return f"exit status {exit_code}"


@contextmanager
def _translated() -> Iterator[None]:
    """Raise this module's errors instead of three libraries'."""
    try:
        yield
    except docker.errors.NotFound as error:
        raise NoSuchObject(_text(error)) from error
    except docker.errors.APIError as error:
        raise EngineRefused(_text(error)) from error
    except (
        docker.errors.DockerException,
        requests.RequestException,
        urllib3.exceptions.HTTPError,
        OSError,
    ) as error:
        raise RuntimeUnavailable(f"the Docker daemon does not answer: {_root_cause(error)}") from error


def _text(error: docker.errors.APIError) -> str:
    return str(error.explanation or error)


def _root_cause(error: BaseException) -> str:
    """Return the innermost reason: the SDK wraps an OSError four times."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return str(getattr(error, "strerror", None) or error)
