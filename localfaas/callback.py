"""Sending the result of an asynchronous call to where its caller wants it."""

import http.client
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import HTTPRedirectHandler, ProxyHandler, Request, build_opener

from localfaas.async_store import AsyncCall, CallResult
from localfaas.errors import BadRequest

_TIMEOUT_SECONDS = 10.0
# Those of the function's answer that say something of the result.
_PASSED_ON = ("content-type", "content-encoding", "x-start-time", "x-duration-seconds", "x-replica")


def check_callback_url(url: str) -> str:
    """Return `url` if a result can be sent there.

    Raises:
        BadRequest: it is no absolute http or https URL.
    """
    try:
        parts = urlsplit(url)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_usable = False
    if not is_usable or not url.isascii() or not url.isprintable() or " " in url:
        raise BadRequest("X-Callback-Url has to be an http or https URL, such as http://host:8080/path")
    return url


def post_result(call: AsyncCall, result: CallResult) -> str:
    """Send a result by one POST, in this thread; return what went wrong, or "" if it was taken (2xx).

    The headers are OpenFaaS': X-Call-Id, X-Function-Name, X-Function-Status, and those of the answer that
    describe it. Redirections are not followed, and count as a failure.
    """
    headers = {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in result.headers
        if name.decode("latin-1") in _PASSED_ON
    }
    headers = {"content-type": "application/octet-stream"} | headers
    headers |= {
        "X-Call-Id": call.call_id,
        "X-Function-Name": call.function,
        "X-Function-Status": str(result.status),
    }
    request = Request(call.callback_url, result.body, headers, method="POST")
    try:
        with build_opener(ProxyHandler({}), _NoRedirects).open(request, timeout=_TIMEOUT_SECONDS):
            return ""
    except HTTPError as error:
        with error:
            return f"status {error.code}"
    except (OSError, http.client.HTTPException, ValueError) as error:
        return str(error) or type(error).__name__


class _NoRedirects(HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Follow none."""
