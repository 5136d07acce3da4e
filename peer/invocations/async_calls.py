"""Calls through the gateway's queue: taken now, computed later, and found done by a reply in the store.

A gateway may be gone, or a connection lost, while a function computes for longer than anything on the way
allows. https://docs.openfaas.com/reference/async/
"""

import threading
import uuid
from collections.abc import Callable, Iterable
from urllib.parse import quote

from msgspec.structs import replace

from peer import messages
from peer.errors import InvocationFailed, PeerlessError
from peer.gateway import Gateway, error_of
from peer.invocations.abandonment import ended_by
from peer.messages import AggregateRequest, SamplesRequest, StoredReply
from peer.store import keys
from peer.store.retry import Patience, poll
from peer.store.s3 import Store

_FIRST_SECONDS, _LONGEST_SECONDS = 0.005, 0.25
_LATE_DEADLINES = 2
"""Deadlines after which a call that was given up leaves no reply any more: one in the queue, one at work."""

_CALLBACK = "/function/evaluate"
"""What puts the reply of a call whose function was killed; one that was not has put it itself."""

Delete = Callable[[Iterable[str], float], None]
"""Deletes objects; for so many seconds somebody may still write them."""


class AsyncCalls:
    """Enqueues calls and awaits their replies; safe between threads.

    Every call has its own key, so a reply is never another call's; it is deleted once it is read.

    Args:
        store: where functions put their replies, through URLs that it signs.
        seconds: how long a call may take, its wait in the gateway's queue included; then it counts as lost.
        valid_seconds: how long a reply may be written.
        delete: removes replies.
    """

    def __init__(self, store: Store, seconds: float, valid_seconds: float, delete: Delete) -> None:
        self._store = store
        self._seconds = seconds
        self._valid_seconds = valid_seconds
        self._delete = delete

    def invoke(self, gateway: Gateway, function: str, request: SamplesRequest | AggregateRequest) -> bytes:
        """Return the body of the function's 2xx reply, once it is in the store.

        Raises:
            FunctionRefused: the gateway has no queue.
            Abandoned: the attempt of this thread was.
            InvocationFailed: no reply in time; the call is lost, or still on its way.
            FunctionError, StoreError: as `Gateway.invoke`.
        """
        call = uuid.uuid4().hex
        key = keys.reply(request.run, call)
        reply_url = self._store.sign_put(key, self._valid_seconds)
        body = messages.encode(replace(request, reply_url=reply_url))
        gateway.enqueue(function, body, call, f"{_CALLBACK}?reply_url={quote(reply_url, safe='')}")
        try:
            found = self._awaited(key)
        except PeerlessError:
            self._delete([key], _LATE_DEADLINES * self._seconds)
            raise
        if found is None:
            self._delete([key], _LATE_DEADLINES * self._seconds)
            raise InvocationFailed(
                f"function {function}: no reply to call {call} within {self._seconds:.0f} s. Does the "
                "gateway work off its queue, and does the function reach the store?"
            )
        self._delete([key], 0.0)
        reply = bytes(found.reply)
        if found.status // 100 == 2:
            return reply
        raise error_of(function, gateway.address.url, found.status, reply)

    def _awaited(self, key: str) -> StoredReply | None:
        """Return the reply under `key`, None if there is none in time."""
        woken = threading.Event()
        patience = Patience(self._seconds, _FIRST_SECONDS, _LONGEST_SECONDS)

        def look() -> StoredReply | None:
            if woken.is_set():
                raise _Woken
            return self._store.get_message_if_exists(key, StoredReply)

        def sleep(seconds: float) -> None:
            woken.wait(seconds)

        with ended_by(woken.set):
            return poll(look, patience, sleep=sleep)


class _Woken(PeerlessError):
    """Nobody waits any more."""
