"""What every request passes first: reading only, a known host or a password, and strict headers."""

import base64
import binascii
import hmac
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from peer.dashboard.events import Message, Receive, Send

AsgiApp = Callable[[Message, Receive, Send], Awaitable[None]]

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_HEADERS = [
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
]
_OWN = ("cache-control", *(name.decode() for name, _ in _HEADERS))
_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True)
class Access:
    """Who may read: everyone on this machine without a password, else the gateway's user.

    Without a password the `Host` header has to name this machine, so that no website can reach the page
    through a name of its own that resolves to 127.0.0.1.
    """

    user: str = ""
    password: str = field(default="", repr=False)

    def refusal(self, headers: dict[bytes, bytes]) -> tuple[int, str] | None:
        """Return status and text of the refusal that these headers deserve, None if they are let in."""
        if not self.password:
            host = headers.get(b"host", b"").decode("latin-1").lower()
            name = host if host.endswith("]") else host.rpartition(":")[0] or host
            if name not in _LOOPBACK_NAMES:
                return 403, f"this page answers to localhost only, not to {host[:100]!r}"
            return None
        if self._accepts(headers.get(b"authorization", b"").decode("latin-1")):
            return None
        return 401, f"log in as user {self.user!r} with the gateway's password"

    def _accepts(self, authorization: str) -> bool:
        scheme, _, encoded = authorization.partition(" ")
        try:
            user, _, password = base64.b64decode(encoded.strip(), validate=True).partition(b":")
        except (binascii.Error, ValueError):
            return False
        # both whole and in constant time, whichever is wrong
        is_user = hmac.compare_digest(user, self.user.encode())
        is_password = hmac.compare_digest(password, self.password.encode())
        return scheme.lower() == "basic" and is_user and is_password


class Guard:
    """An ASGI application in front of the page's: `routes` by path, else `rest`."""

    def __init__(self, access: Access, routes: dict[str, AsgiApp], rest: AsgiApp) -> None:
        self._access = access
        self._routes = routes
        self._rest = rest

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Refuse the request, or hand it on."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1000})
            return
        refusal = self._access.refusal(dict(scope["headers"]))
        if scope["method"] not in ("GET", "HEAD"):
            refusal = 405, "this page is read-only: GET or HEAD"
        guarded = _with_headers(send)
        if refusal is not None:
            await _refuse(guarded, *refusal)
            return
        app = self._routes.get(scope["path"]) if scope["method"] == "GET" else None
        await (app or self._rest)(scope, receive, guarded)


def _with_headers(send: Send) -> Send:
    async def guarded(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [pair for pair in message["headers"] if pair[0].decode("latin-1").lower() not in _OWN]
            message = {**message, "headers": [*kept, *_HEADERS]}
        await send(message)

    return guarded


async def _refuse(send: Send, status: int, text: str) -> None:
    headers: list[Any] = [(b"content-type", b"text/plain; charset=utf-8")]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="peerless", charset="UTF-8"'))
    if status == 405:
        headers.append((b"allow", b"GET, HEAD"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": f"{text}\n".encode()})
