"""The gateway's end of a warm parent: starts the process, asks it for replicas, hears of their ends."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from localfaas.errors import StartFailed

_MAX_PACKET_BYTES = 1 << 16
_FULL_SOCKET_PAUSE_SECONDS = 0.01
_PROGRAM = Path(__file__).with_name("warm_parent.py")
# More than one thread while importing, and no fork of the process is safe.
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Ended:
    """What the warm parent, or its loss, says of a replica's end."""

    reason: str
    cpu_seconds: float


class WarmParentClient:
    """One warm parent. Its replicas live exactly as long as it does, or shorter."""

    def __init__(self, preload: tuple[str, ...], environment: Mapping[str, str]) -> None:
        """Start the process; it imports `preload` while this returns.

        Args:
            preload: modules that every replica finds imported.
            environment: of the process; thread counts are set to one.

        Raises:
            StartFailed: the process cannot be started.
        """
        self.base_bytes = 0
        loop = asyncio.get_running_loop()
        self.is_lost = False
        self._ready: asyncio.Future[None] = loop.create_future()
        self._starting: dict[str, asyncio.Future[int]] = {}
        self._on_end: dict[str, Callable[[Ended], None]] = {}
        self._last_used = loop.time()
        self._one_start = asyncio.Lock()
        self._unsent_kills: deque[bytes] = deque()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-P", str(_PROGRAM), str(theirs.fileno()), *preload],
                    env={**environment, **_ONE_THREAD},
                    stdin=subprocess.DEVNULL,
                    stdout=sys.stderr.fileno(),
                    pass_fds=(theirs.fileno(),),
                )
            except OSError as error:
                self._socket.close()
                raise StartFailed(f"cannot start {sys.executable}: {error.strerror}") from error
        loop.add_reader(self._socket, self._receive)

    async def start(
        self, message: Mapping[str, Any], descriptors: list[int], on_end: Callable[[Ended], None]
    ) -> int:
        """Return the process id of a replica started as `message` says (see `warm_parent`).

        `on_end` is called once, when nothing of the replica is left.

        Raises:
            StartFailed: it was not started; `on_end` is not called.
        """
        await asyncio.shield(self._ready)
        # It forks one at a time anyway; this way starts never fill its socket.
        async with self._one_start:
            return await self._start(message, descriptors, on_end)

    async def _start(
        self, message: Mapping[str, Any], descriptors: list[int], on_end: Callable[[Ended], None]
    ) -> int:
        replica = message["id"]
        started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._starting[replica] = started
        self._on_end[replica] = on_end
        try:
            await self._send_start(json.dumps({"do": "start", **message}).encode(), descriptors)
            return await started
        except OSError as error:
            self._on_end.pop(replica, None)
            raise StartFailed(f"the warm parent takes no request: {error.strerror}") from error
        except BaseException:
            # Refused, or nobody waits any longer: a replica that starts all the same must not stay.
            self._on_end.pop(replica, None)
            self.kill(replica, signal.SIGKILL)
            raise
        finally:
            self._starting.pop(replica, None)

    def kill(self, replica: str, number: int) -> None:
        """Send a signal to the replica's process group; nothing happens where it has ended."""
        if self.is_lost:
            return
        self._unsent_kills.append(json.dumps({"do": "kill", "id": replica, "signal": int(number)}).encode())
        if len(self._unsent_kills) == 1:
            self._send_kills()

    def idle_seconds(self, now: float) -> float:
        """Return for how long there has been no replica, at the event loop's time `now`."""
        return 0.0 if self._on_end else now - self._last_used

    async def close(self) -> None:
        """End the process and every replica of it."""
        if not self.is_lost:
            self._lose("the gateway closed it")
        await self.reap()

    async def _send_start(self, packet: bytes, descriptors: list[int]) -> None:
        while True:
            try:
                socket.send_fds(self._socket, [packet], descriptors)
                return
            except BlockingIOError:
                await asyncio.sleep(_FULL_SOCKET_PAUSE_SECONDS)

    def _send_kills(self) -> None:
        """Send as many as its socket takes, and go on when it takes more."""
        loop = asyncio.get_running_loop()
        try:
            while self._unsent_kills:
                self._socket.send(self._unsent_kills[0])
                self._unsent_kills.popleft()
        except BlockingIOError:
            loop.add_writer(self._socket, self._send_kills)
            return
        except OSError:
            # The warm parent has ended, and its replicas with it; `_receive` finds the same.
            self._unsent_kills.clear()
        loop.remove_writer(self._socket)

    def _receive(self) -> None:
        try:
            packet = self._socket.recv(_MAX_PACKET_BYTES)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if not packet:
            self._lose("its warm parent ended; the gateway's own log may say why")
            return
        message = json.loads(packet)
        match message["is"]:
            case "ready":
                self.base_bytes = message["base_bytes"]
                _resolve(self._ready, None)
            case "started":
                _resolve(self._starting.get(message["id"]), message["pid"])
            case "refused":
                started = self._starting.get(message["id"])
                if started is not None and not started.done():
                    started.set_exception(StartFailed(message["reason"]))
            case "exited":
                self._last_used = asyncio.get_running_loop().time()
                on_end = self._on_end.pop(message["id"], None)
                if on_end is not None:
                    on_end(Ended(_describe(message["status"]), message["cpu_seconds"]))

    def _lose(self, reason: str) -> None:
        self.is_lost = True
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        loop.remove_writer(self._socket)
        self._socket.close()
        self._unsent_kills.clear()
        pending: list[asyncio.Future[Any]] = [self._ready, *self._starting.values()]
        for waiting in pending:
            if not waiting.done():
                waiting.set_exception(StartFailed(f"the replica did not start: {reason}"))
                # Nobody may be waiting for the first.
                waiting.exception()
        for on_end in self._on_end.values():
            on_end(Ended(reason, 0.0))
        self._on_end.clear()

    async def reap(self) -> None:
        """Return once the process, which is lost, is no zombie any more."""
        await asyncio.to_thread(self._process.wait)


def _resolve(future: "asyncio.Future[Any] | None", value: object) -> None:
    if future is not None and not future.done():
        future.set_result(value)


def _describe(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"exit status {code}"
    return f"killed by {signal.Signals(-code).name}"
