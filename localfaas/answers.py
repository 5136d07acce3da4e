"""Short answers of the gateway itself, as ASGI messages."""

from collections.abc import Iterable

from localfaas.errors import LocalFaasError
from localfaas.invocation import Send

_Headers = Iterable[tuple[bytes, bytes]]


async def answer_text(send: Send, status: int, text: str, headers: _Headers = ()) -> None:
    """Send one line of text."""
    await answer(send, status, b"text/plain; charset=utf-8", (text + "\n").encode(), headers)


async def answer_error(send: Send, error: LocalFaasError, headers: _Headers = ()) -> None:
    """Send an error as JSON, as invocations have them; those that pass by themselves with Retry-After."""
    retry_after = [(b"retry-after", b"1")] if error.status in (429, 503) else []
    await answer(send, error.status, b"application/json", error.to_json(), [*retry_after, *headers])


async def answer(send: Send, status: int, content_type: bytes, body: bytes, headers: _Headers = ()) -> None:
    """Send a whole answer."""
    all_headers = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": all_headers})
    await send({"type": "http.response.body", "body": body})
