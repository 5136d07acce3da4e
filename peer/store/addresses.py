"""The addresses of one name: servers that have the same objects, of which one may fail for a while.

A server of MinIO that has just come back, or that sees too few of the others, answers 503 to what each of the
others would do.
"""

import socket
from typing import Any

Name = tuple[str, int]
"""Host and port."""
Address = Any
"""What `socket.connect` takes: an IP address, a port, and two more figures with IPv6."""


class Addresses:
    """Connects to names; safe to share between threads.

    A name's addresses are tried in the resolver's order, but those up to the one that last failed come after
    the rest.
    """

    def __init__(self) -> None:
        self._failed: dict[Name, Address] = {}

    def connect(self, name: Name, timeout_seconds: float) -> tuple[socket.socket, Address]:
        """Return a connection to the first address that accepts one, and this address.

        Raises:
            OSError: of the last address, or of the resolver.
        """
        host, port = name
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        addresses = [each[-1] for each in found]
        if self._failed.get(name) in addresses:
            first = addresses.index(self._failed[name]) + 1
            found = found[first:] + found[:first]
        refusal: OSError | None = None
        for family, kind, protocol, _, address in found:
            connection = socket.socket(family, kind, protocol)
            try:
                connection.settimeout(timeout_seconds)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                connection.connect(address)
                if connection.getsockname() == address:
                    # a connection to an unused port of this machine may be given that very port as its own
                    raise ConnectionRefusedError("nothing listens there")
            except OSError as error:
                connection.close()
                refusal = error
            else:
                return connection, address
        raise refusal or OSError(f"{host} has no address")

    def turn_from(self, name: Name, address: Address) -> None:
        """Try the addresses after this one first, from now on."""
        self._failed[name] = address
