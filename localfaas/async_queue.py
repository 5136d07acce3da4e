"""`/async-function/<name>`: calls that are answered later, each at least once.

A call is on disk before its caller is told so, and leaves it when its result has been sent, so a gateway
that is killed delivers again what it had not finished; its replicas have died with it. Within one gateway a
call is with one replica at a time.
"""

import asyncio
import heapq
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from localfaas.async_store import AsyncCall, CallEntry, CallResult, CallStore
from localfaas.callback import post_result
from localfaas.config import GatewayConfig
from localfaas.errors import (
    FunctionNotFound,
    LocalFaasError,
    QueueFull,
    QueueStorageFailed,
    ReplyTooLong,
    StorageFull,
)
from localfaas.gateway import Functions
from localfaas.invocation import Invocation, Message

_log = logging.getLogger(__name__)

# What may be otherwise the next time; everything else is the function's answer.
_RETRIED_STATUSES = frozenset((408, 429, 500, 502, 503, 504))
_MAX_ATTEMPTS = 10
_FIRST_PAUSE_SECONDS = 1.0
_MAX_PAUSE_SECONDS = 60.0
_MAX_RESULT_BYTES = 8 << 20
_NUM_CALLBACKS = 16
_MAX_CALLS_OF_A_REPLICA = 100
_MAX_CALLBACKS_OF_A_FUNCTION = 4
_CLOSE_SECONDS = 5.0
_STORAGE_PAUSE_SECONDS = 1.0

_Lane = tuple[str, bool]


@dataclass
class _Due:
    """The calls of one function that wait for their invocation, or those that wait for their callback."""

    heap: list[tuple[float, int]] = field(default_factory=list)
    num_running: int = 0
    timer: asyncio.TimerHandle | None = None


class AsyncQueue:
    """Every call that was taken and not yet answered; lives on the event loop."""

    def __init__(self, store: CallStore, functions: Functions, config: GatewayConfig) -> None:
        """Take over a store; nothing is delivered before `restore`."""
        self._store = store
        self._functions = functions
        self._config = config
        self._entries: dict[int, CallEntry] = {}
        self._lanes: dict[_Lane, _Due] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._callbacks = ThreadPoolExecutor(_NUM_CALLBACKS, thread_name_prefix="callback")
        self._num_adding = 0
        self._is_stopping = False

    async def restore(self) -> None:
        """Go on with what an earlier gateway on this state directory had not finished."""
        for entry in await self._store.entries():
            self._enlist(entry)

    async def add(self, call: AsyncCall) -> None:
        """Take a call, which is on disk when this returns.

        Raises:
            QueueFull: as many wait as may.
            StorageFull, QueueStorageFailed: the disk does not take it.
        """
        if len(self._entries) + self._num_adding >= self._config.max_async_waiting:
            raise QueueFull(f"{self._config.max_async_waiting} asynchronous calls wait already")
        self._num_adding += 1
        try:
            entry = await self._store.add(call, time.time())
        finally:
            self._num_adding -= 1
        self._enlist(entry)

    def depths(self) -> Iterator[tuple[str, int, float]]:
        """Yield each function with calls here, how many there are, and the oldest one's age in seconds."""
        now = time.time()
        oldest: dict[str, float] = {}
        counts: dict[str, int] = {}
        for entry in self._entries.values():
            counts[entry.function] = counts.get(entry.function, 0) + 1
            oldest[entry.function] = min(oldest.get(entry.function, now), entry.enqueued_at)
        for function in sorted(counts):
            yield function, counts[function], now - oldest[function]

    def stop(self) -> None:
        """Begin nothing any more; what has begun goes on."""
        self._is_stopping = True
        for lane in self._lanes.values():
            if lane.timer is not None:
                lane.timer.cancel()

    async def close(self) -> None:
        """Close the store. What has not ended within five seconds is begun again by the next gateway."""
        self.stop()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=_CLOSE_SECONDS)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._callbacks.shutdown(wait=False, cancel_futures=True)
        await self._store.close()

    def _enlist(self, entry: CallEntry) -> None:
        self._entries[entry.number] = entry
        key = (entry.function, entry.has_result)
        heapq.heappush(self._lanes.setdefault(key, _Due()).heap, (entry.due_at, entry.number))
        self._pump(key)

    def _pump(self, key: _Lane) -> None:
        """Begin what is due and may run now; see to it that this is looked at again when more is."""
        lane = self._lanes[key]
        if lane.timer is not None:
            lane.timer.cancel()
            lane.timer = None
        loop = asyncio.get_running_loop()
        while lane.heap and not self._is_stopping and lane.num_running < self._limit(key):
            due_at, number = lane.heap[0]
            # At most so long, however the clock was set meanwhile.
            pause = min(due_at - time.time(), _MAX_PAUSE_SECONDS)
            if pause > 0:
                lane.timer = loop.call_later(pause, self._pump, key)
                return
            heapq.heappop(lane.heap)
            lane.num_running += 1
            task = loop.create_task(self._work(self._entries[number], key))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        if not lane.heap and not lane.num_running:
            del self._lanes[key]

    def _limit(self, key: _Lane) -> int:
        function, has_result = key
        if has_result:
            return _MAX_CALLBACKS_OF_A_FUNCTION
        try:
            # More than there are now, so that scaling by load sees them.
            deployment = self._functions.find(function).record.deployment
            return deployment.max_replicas * min(deployment.watchdog.max_inflight, _MAX_CALLS_OF_A_REPLICA)
        except FunctionNotFound:
            return 1

    async def _work(self, entry: CallEntry, key: _Lane) -> None:
        """Do the next step of a call, and hand it on or forget it."""
        try:
            call, result = await self._store.read(entry.number)
            if result is None:
                await self._deliver(entry, call)
            else:
                await self._call_back(entry, call, result)
        except (StorageFull, QueueStorageFailed) as error:
            self._retry_later(entry, str(error))
        except Exception:
            # The boundary of a call: it is still in the store, and none is ever lost.
            _log.exception("asynchronous call %d of %s has failed", entry.number, entry.function)
            self._retry_later(entry, "an unforeseen error")
        finally:
            self._lanes[key].num_running -= 1
            self._pump(key)

    def _retry_later(self, entry: CallEntry, reason: str) -> None:
        _log.error("asynchronous call %d of %s is tried again: %s", entry.number, entry.function, reason)
        entry.due_at = time.time() + _MAX_PAUSE_SECONDS
        self._enlist(entry)

    async def _deliver(self, entry: CallEntry, call: AsyncCall) -> None:
        result = await self._invoke(call)
        if result.status in _RETRIED_STATUSES:
            if self._is_stopping:
                # It counts for nothing: the next gateway begins it again.
                return
            if await self._postpone(entry, call, f"status {result.status}"):
                return
        if call.callback_url:
            await self._write_down(entry, lambda: self._store.finish(entry.number, result))
            entry.has_result, entry.num_attempts, entry.due_at = True, 0, 0.0
            self._enlist(entry)
        else:
            await self._forget(entry)

    async def _call_back(self, entry: CallEntry, call: AsyncCall, result: CallResult) -> None:
        loop = asyncio.get_running_loop()
        trouble = await loop.run_in_executor(self._callbacks, post_result, call, result)
        if not trouble or not await self._postpone(entry, call, f"its callback failed: {trouble}"):
            await self._forget(entry)

    async def _postpone(self, entry: CallEntry, call: AsyncCall, reason: str) -> bool:
        """Try a call again later; return False where that was done often enough."""
        entry.num_attempts += 1
        name = f"asynchronous call {call.call_id!r} of {call.function}"
        if entry.num_attempts >= _MAX_ATTEMPTS:
            _log.error("%s is given up after %d attempts: %s", name, entry.num_attempts, reason)
            return False
        pause = min(_MAX_PAUSE_SECONDS, _FIRST_PAUSE_SECONDS * 2 ** (entry.num_attempts - 1))
        _log.warning("%s is tried again in %g s: %s", name, pause, reason)
        entry.due_at = time.time() + pause
        await self._write_down(entry, lambda: self._store.postpone(entry))
        self._enlist(entry)
        return True

    async def _forget(self, entry: CallEntry) -> None:
        await self._write_down(entry, lambda: self._store.remove(entry.number))
        del self._entries[entry.number]

    async def _write_down(self, entry: CallEntry, write: Callable[[], Awaitable[None]]) -> None:
        """Return once a step that has been done is on disk.

        While that takes nothing, the call keeps its place among those that run: it is not done again, and no
        more results wait in memory than calls may run.
        """
        is_first = True
        while True:
            try:
                await write()
                return
            except (StorageFull, QueueStorageFailed) as error:
                if self._is_stopping:
                    raise
                if is_first:
                    _log.warning("asynchronous call %d of %s waits: %s", entry.number, entry.function, error)
                is_first = False
                await asyncio.sleep(_STORAGE_PAUSE_SECONDS)

    async def _invoke(self, call: AsyncCall) -> CallResult:
        """Return what the function answers; an error of the gateway is an answer too."""
        reply = _Reply()
        try:
            pool = self._functions.find(call.function)
            scope = {"method": call.method, "headers": call.headers, "client": None}
            requests = _request_messages(call.body)
            limits = pool.record.deployment.watchdog.time_limits(self._config.default_timeout_seconds)
            await Invocation(pool, call.path, scope, requests, reply.send, limits).run()
        except LocalFaasError as error:
            return _refusal(error)
        return reply.result()


class _Reply:
    """Takes the ASGI messages of a reply."""

    def __init__(self) -> None:
        self._status = 502
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = bytearray()
        self._is_too_long = False

    async def send(self, message: Message) -> None:
        """Take one message; of a body above 8 MiB nothing is kept."""
        if message["type"] == "http.response.start":
            self._status, self._headers = message["status"], list(message["headers"])
        elif len(self._body) + len(message.get("body", b"")) > _MAX_RESULT_BYTES:
            self._is_too_long = True
        else:
            self._body += message.get("body", b"")

    def result(self) -> CallResult:
        """Return the whole reply."""
        if self._is_too_long:
            text = (
                f"the function's reply is above {_MAX_RESULT_BYTES} bytes; let it store the result elsewhere"
            )
            return _refusal(ReplyTooLong(text))
        return CallResult(self._status, self._headers, bytes(self._body))


def _refusal(error: LocalFaasError) -> CallResult:
    return CallResult(error.status, [(b"content-type", b"application/json")], error.to_json())


def _request_messages(body: bytes) -> Any:
    """Return an ASGI `receive` that yields the body once; its client never goes away."""
    messages = iter([{"type": "http.request", "body": body, "more_body": False}])

    async def receive() -> Message:
        with suppress(StopIteration):
            return next(messages)
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]

    return receive
