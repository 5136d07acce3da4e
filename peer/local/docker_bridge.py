"""Where containers reach this machine: its address on Docker's own bridge."""

import fcntl
import socket
import struct
from collections.abc import Mapping
from typing import Any

from peer.errors import ConfigurationError

_ENGINE_SECONDS = 10
_BRIDGE_NAME = "com.docker.network.bridge.name"
_SIOCGIFADDR = 0x8915
_LONGEST_NAME_BYTES = 15


def bridge_address() -> str:
    """Return the address of this machine on Docker's own bridge, where containers reach what listens.

    Processes of this machine reach it, too; another machine would have to be given a route to it.

    Raises:
        ConfigurationError: no Docker daemon answers, or it has no such bridge.
    """
    # Here, since most platforms have no use for it.
    import docker
    import docker.errors

    try:
        client = docker.from_env(timeout=_ENGINE_SECONDS)
        try:
            attributes = client.networks.get("bridge").attrs
        finally:
            client.close()
    except (docker.errors.DockerException, OSError) as error:
        raise ConfigurationError(
            f"the Docker daemon does not tell where containers reach this machine: {error}; start it, let "
            "this user use it (group docker), or take --runtime process"
        ) from error
    return address_on(attributes)


def address_on(attributes: Mapping[str, Any]) -> str:
    """Return this machine's IPv4 address on a bridge, from what `docker network inspect` says of it.

    A daemon that has made the bridge itself names its gateway only after a restart; until then the network
    interface tells.

    Raises:
        ConfigurationError: it has none.
    """
    configured = attributes["IPAM"]["Config"] or []
    gateways = [str(each["Gateway"]) for each in configured if ":" not in each.get("Gateway", ":")]
    if gateways:
        return gateways[0]
    interface = attributes["Options"].get(_BRIDGE_NAME, "")
    try:
        return _address_of(interface)
    except OSError as error:
        raise ConfigurationError(
            f"the Docker daemon's bridge {interface!r} has no IPv4 address on this machine "
            f"({error.strerror}): take --runtime process"
        ) from error


def _address_of(interface: str) -> str:
    request = struct.pack("256s", interface.encode()[:_LONGEST_NAME_BYTES])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, _SIOCGIFADDR, request)
    return socket.inet_ntoa(answer[20:24])
