"""Where a server of the process runtime listens: at descriptor 3, or where its `upstream_url` says.

Source: https://github.com/openfaas/of-watchdog#1-http-modehttp. Replicas of one function would all want the
same address, so one that leaves it open (`http://127.0.0.1:0`, `unix:`) gets an own one for each replica, and
finds it in `upstream_url` and, of a port, in `PORT`.
"""

import asyncio
import re
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from urllib.parse import urlsplit

from localfaas.errors import BadRequest, StartFailed
from localfaas.upstream import Address, ReplicaConnection, ReplyLost

_MAX_PATH_BYTES = 107
# An update starts a replica when it has told the old one to end.
_RELEASE_PATIENCE_SECONDS = 10.0
_FORMS = "write http://127.0.0.1:PORT, or unix:/PATH; with port 0, or no path, each replica gets its own"
_UNIX = re.compile("unix:(?://)?(/.+)?")


@dataclass(frozen=True)
class UpstreamUrl:
    """A loopback address; `port` 0 or `path` "" mean any."""

    host: str = ""
    port: int = 0
    path: str = ""

    @property
    def is_fixed(self) -> bool:
        """Only one replica can have it."""
        return bool(self.port or self.path)

    def assign(self, own_path: str) -> tuple[Address, dict[str, str]]:
        """Return one replica's address, and the variables that tell it.

        Args:
            own_path: of a socket that this replica may make.
        """
        if not self.host:
            path = self.path or own_path
            return path, {"upstream_url": f"unix:{path}"}
        port = self.port or _free_port(self.host)
        host = f"[{self.host}]" if ":" in self.host else self.host
        return (self.host, port), {"upstream_url": f"http://{host}:{port}", "PORT": str(port)}


def parse_upstream_url(text: str) -> UpstreamUrl:
    """Return the address that an `upstream_url` names.

    Raises:
        BadRequest: it is none, or not on loopback.
    """
    if match := _UNIX.fullmatch(text):
        path = match[1] or ""
        if len(path.encode()) > _MAX_PATH_BYTES:
            raise BadRequest(f"upstream_url {text!r:.150} is longer than a socket's path can be")
        return UpstreamUrl(path=path)
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise BadRequest(f"upstream_url {text!r:.150} is none; {_FORMS}") from None
    if parts.scheme != "http" or port is None or parts.path not in ("", "/") or parts.query or parts.username:
        raise BadRequest(f"upstream_url {text!r:.150} is not served; {_FORMS}")
    if host == "localhost":
        host = "127.0.0.1"
    try:
        is_loopback = ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise BadRequest(f"upstream_url {text!r:.150} is not on loopback; {_FORMS}")
    return UpstreamUrl(host, port)


def _free_port(host: str) -> int:
    """Return a port that nobody has just now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class Addresses:
    """Which replica has which address, for those that only one can have."""

    def __init__(self) -> None:
        self._held: dict[Address, tuple[str, asyncio.Future[None]]] = {}

    async def claim(self, address: Address, replica: str) -> None:
        """Make an address the replica's, until `release`; wait for one whose replica is about to end.

        Raises:
            StartFailed: it is another's, or something else listens there.
        """
        try:
            async with asyncio.timeout(_RELEASE_PATIENCE_SECONDS):
                while address in self._held:
                    await asyncio.shield(self._held[address][1])
        except TimeoutError:
            holder, _ = self._held[address]
            raise StartFailed(
                f"its upstream_url is that of replica {holder}, and only one can have it; {_FORMS}"
            ) from None
        self._held[address] = replica, asyncio.get_running_loop().create_future()
        connection = ReplicaConnection(address)
        try:
            await connection.open()
        except ReplyLost:
            return
        finally:
            connection.close()
        self.release(address, replica)
        raise StartFailed(f"something else listens at its upstream_url already; {_FORMS}")

    def release(self, address: Address, replica: str) -> None:
        """Let others have an address that is the replica's; nothing happens where it is not."""
        name, released = self._held.get(address, ("", None))
        if name == replica and released is not None:
            del self._held[address]
            released.set_result(None)
