"""`/api/events`: states as server-sent events, each as soon as it is there.

https://html.spec.whatwg.org/multipage/server-sent-events.html

Plain ASGI, so that a browser costs a task and no thread, and one that leaves is noticed at once.
"""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

from peer.dashboard.board import Board

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_KEEP_ALIVE_SECONDS = 10.0
_MOST_BROWSERS = 64
_SEND_SECONDS = 30.0
_RETRY_MILLISECONDS = 1000


class EventStream:
    """Answers requests for events.

    Args:
        board: has the states.
        on_look: told at each state that is sent.
    """

    def __init__(self, board: Board, on_look: Callable[[], None]) -> None:
        self._board = board
        self._on_look = on_look
        self._closing = asyncio.Event()
        self.num_open = 0

    def close(self) -> None:
        """End all streams; browsers come back by themselves."""
        self._closing.set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Send states until the browser leaves, does not read for 30 s, or `close`."""
        if self.num_open >= _MOST_BROWSERS:
            await _refuse(send)
            return
        changed = asyncio.Event()
        self.num_open += 1
        self._board.subscribe(changed)
        watching = [asyncio.ensure_future(_gone(receive)), asyncio.ensure_future(self._closing.wait())]
        try:
            await self._stream(changed, watching, send)
        except (TimeoutError, OSError):
            return
        finally:
            self.num_open -= 1
            self._board.unsubscribe(changed)
            for task in watching:
                task.cancel()

    async def _stream(
        self, changed: asyncio.Event, watching: Sequence[asyncio.Future[Any]], send: Send
    ) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"x-accel-buffering", b"no")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await _send(send, f"retry: {_RETRY_MILLISECONDS}\n\n".encode())
        changed.set()
        while not any(task.done() for task in watching):
            if changed.is_set():
                changed.clear()
                self._on_look()
                number = str(self._board.number).encode()
                await _send(send, b"id: " + number + b"\nevent: state\ndata: " + self._board.body() + b"\n\n")
            waiting = asyncio.ensure_future(changed.wait())
            try:
                done, _ = await asyncio.wait(
                    {waiting, *watching},
                    timeout=_KEEP_ALIVE_SECONDS,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                waiting.cancel()
            if not done:
                await _send(send, b": still here\n\n")
        await _send(send, b"", is_last=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _send(send: Send, body: bytes, *, is_last: bool = False) -> None:
    message = {"type": "http.response.body", "body": body, "more_body": not is_last}
    await asyncio.wait_for(send(message), _SEND_SECONDS)


async def _refuse(send: Send) -> None:
    body = f"{_MOST_BROWSERS} browsers watch already: close one\n".encode()
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"retry-after", b"10")]
    await send({"type": "http.response.start", "status": 503, "headers": headers})
    await send({"type": "http.response.body", "body": body})
