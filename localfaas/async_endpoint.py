"""The ASGI application of `/async-function/*`: a call is taken now and answered later."""

import time
import uuid

from localfaas.answers import answer, answer_error
from localfaas.async_queue import AsyncQueue
from localfaas.async_store import AsyncCall
from localfaas.callback import check_callback_url
from localfaas.errors import BadRequest, LocalFaasError, NotAccepting, PayloadTooLarge
from localfaas.gateway import Functions, split_function_path
from localfaas.invocation import Receive, Scope, Send

_CALL_ID, _CALLBACK = b"x-call-id", b"x-callback-url"
_MAX_CALL_ID_BYTES = 200


class AsyncEndpoint:
    """Answers 202 with the call's X-Call-Id once the call is on disk."""

    def __init__(self, queue: AsyncQueue, functions: Functions, max_body_bytes: int) -> None:
        self._queue = queue
        self._functions = functions
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; see https://asgi.readthedocs.io."""
        started_ns = time.time_ns()
        try:
            call = await self._read(scope, receive)
            if call is None:
                return
            await self._queue.add(call)
        except LocalFaasError as error:
            await answer_error(send, error)
            return
        headers = [(_CALL_ID, call.call_id.encode("latin-1")), (b"x-start-time", b"%d" % started_ns)]
        await answer(send, 202, b"text/plain; charset=utf-8", b"", headers)

    async def _read(self, scope: Scope, receive: Receive) -> AsyncCall | None:
        """Return the call, or None where its client went away before it was whole."""
        if self._functions.is_stopping:
            raise NotAccepting("the gateway is shutting down")
        name, path = split_function_path(scope.get("raw_path") or scope["path"].encode(), scope)
        function = self._functions.find(name).name
        given = dict(reversed(scope["headers"]))
        call_id = given.get(_CALL_ID, b"").decode("latin-1") or str(uuid.uuid4())
        if len(call_id) > _MAX_CALL_ID_BYTES:
            raise BadRequest(f"X-Call-Id is longer than {_MAX_CALL_ID_BYTES} bytes")
        callback_url = given.get(_CALLBACK, b"").decode("latin-1")
        if callback_url:
            check_callback_url(callback_url)
        body = await self._read_body(given.get(b"content-length", b""), receive)
        if body is None:
            return None
        headers = [pair for pair in scope["headers"] if pair[0] not in (_CALL_ID, _CALLBACK)]
        headers.append((_CALL_ID, call_id.encode("latin-1")))
        if b"x-forwarded-for" not in given and scope.get("client"):
            headers.append((b"x-forwarded-for", scope["client"][0].encode()))
        return AsyncCall(call_id, function, scope["method"], path, headers, body, callback_url)

    async def _read_body(self, content_length: bytes, receive: Receive) -> bytes | None:
        if content_length.isdigit() and int(content_length) > self._max_body_bytes:
            raise self._too_large()
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > self._max_body_bytes:
                raise self._too_large()
            if not message.get("more_body", False):
                return bytes(body)

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(
            f"the body of an asynchronous call may have {self._max_body_bytes} bytes; store it elsewhere and "
            "send its address, or raise --max-async-body-bytes"
        )
