"""A network of a given latency and bandwidth, emulated by a relay in front of a server on this machine.

Every link has a port of its own. Bytes take half of the latency each way, and one after the other the time
that the bandwidth gives them; both directions of a link are apart. The relay is one process in Python: above
some hundred MB/s it is what limits, not the bandwidth that was asked for.
"""

import asyncio
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from urllib.parse import urlsplit

import uvloop

_PIECE_BYTES = 1 << 16
_SPAWN = multiprocessing.get_context("spawn")


@dataclass(frozen=True)
class Network:
    """One peer's way to the store."""

    latency_seconds: float
    """Of a round trip."""

    bytes_per_second: float
    """Of each direction."""

    def __str__(self) -> str:
        return f"{1e3 * self.latency_seconds:g} ms, {self.bytes_per_second / 1e6:g} MB/s"


@contextmanager
def shaped(endpoint: str, network: Network, num_links: int) -> Iterator[list[str]]:
    """Give the block so many addresses of the server at `endpoint`, each behind a link of its own."""
    receiver, sender = _SPAWN.Pipe(duplex=False)
    process = _SPAWN.Process(target=_relay, args=(sender, endpoint, network, num_links), daemon=True)
    process.start()
    try:
        ports: list[int] = receiver.recv()
        yield [f"http://127.0.0.1:{port}" for port in ports]
    finally:
        process.kill()
        process.join()


def _relay(sender: Connection, endpoint: str, network: Network, num_links: int) -> None:
    uvloop.run(_serve(sender, endpoint, network, num_links))


async def _serve(sender: Connection, endpoint: str, network: Network, num_links: int) -> None:
    address = urlsplit(endpoint)
    ports = []
    for _ in range(num_links):
        up, down = _Direction(network), _Direction(network)

        async def connect(
            reader: asyncio.StreamReader,
            writer: asyncio.StreamWriter,
            up: "_Direction" = up,
            down: "_Direction" = down,
        ) -> None:
            server_reader, server_writer = await asyncio.open_connection(address.hostname, address.port)
            await asyncio.gather(up.carry(reader, server_writer), down.carry(server_reader, writer))

        server = await asyncio.start_server(connect, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
    sender.send(ports)
    await asyncio.Event().wait()


class _Direction:
    """One direction of a link, which all its connections share."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._free_at = 0.0

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what comes until the end of it, each piece when it is due."""
        due: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=64)
        delivery = asyncio.create_task(_deliver(due, writer))
        clock = asyncio.get_running_loop().time
        while piece := await _read(reader):
            self._free_at = max(self._free_at, clock()) + len(piece) / self._network.bytes_per_second
            await due.put((self._free_at + self._network.latency_seconds / 2, piece))
        await due.put((clock() + self._network.latency_seconds / 2, b""))
        await delivery


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(_PIECE_BYTES)
    except ConnectionError:
        # whoever ended it so is told the same by the other side
        return b""


async def _deliver(due: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
    clock = asyncio.get_running_loop().time
    while True:
        at, piece = await due.get()
        if (ahead := at - clock()) > 0:
            await asyncio.sleep(ahead)
        if not piece:
            break
        writer.write(piece)
        await writer.drain()
    writer.close()
