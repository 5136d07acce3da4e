"""The OpenFaaS gateway as a peer sees it: one call invokes a function, a few ask `/system`.

API: https://docs.openfaas.com/reference/rest-api/
"""

from typing import Any

import msgspec
import requests
import urllib3

from peer import messages
from peer.config import GatewayAddress
from peer.errors import (
    ClockSkewed,
    FunctionBusy,
    FunctionError,
    FunctionMissing,
    FunctionRefused,
    GatewayDenied,
    GatewayUnreachable,
    InvocationFailed,
    LostReply,
    ObjectCorrupt,
    OutOfMemory,
    PeerlessError,
    StoreDenied,
    StoreFull,
    StoreUnreachable,
    TrainingDiverged,
    UrlExpired,
)
from peer.invocations.abandonment import ended_by
from peer.invocations.cut_connection import CuttableAdapter, Line

_CONNECT_SECONDS = 5.0
_NAME_LABEL = "faas_function"
_OF_A_SPECIFICATION = (
    "image",
    "namespace",
    "envProcess",
    "envVars",
    "constraints",
    "secrets",
    "annotations",
    "limits",
    "requests",
    "readOnlyRootFilesystem",
)
_CONTROL_SECONDS = 30.0
_MISSING_FUNCTION = b"function_not_found"
"""In a 404 of localfaas' queue; OpenFaaS takes calls of any name into its own."""

_BY_NAME: dict[str, type[PeerlessError]] = {
    "object_corrupt": ObjectCorrupt,
    "out_of_memory": OutOfMemory,
    "store_unreachable": StoreUnreachable,
    "url_expired": UrlExpired,
    "not_finite": TrainingDiverged,
    "store_denied": StoreDenied,
    "store_full": StoreFull,
    "clock_skewed": ClockSkewed,
}
_BY_STATUS: dict[int, type[FunctionError]] = {
    400: FunctionRefused,
    403: FunctionRefused,
    404: FunctionMissing,
    409: FunctionRefused,
    413: FunctionRefused,
    429: FunctionBusy,
    507: OutOfMemory,
}


class Gateway:
    """One session with a gateway. Not for use by two threads at once; each makes its own."""

    def __init__(self, address: GatewayAddress) -> None:
        self.address = address
        self._session = requests.Session()
        self._session.trust_env = False
        self._line = Line()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, CuttableAdapter(self._line))

    def invoke(self, function: str, body: bytes, deadline_seconds: float) -> bytes:
        """Return the body of a function's 2xx reply.

        Args:
            function: its name, with a namespace (`name.namespace`) if it is not in the default one.
            body: JSON.
            deadline_seconds: how long the reply may take.

        Raises:
            FunctionMissing: it is not deployed.
            FunctionBusy, OutOfMemory, InvocationFailed, LostReply, GatewayUnreachable, StoreUnreachable,
                UrlExpired: worth another attempt.
            FunctionRefused, TrainingDiverged: not worth one.
            Abandoned: the attempt of this thread was; the reply, if there is one, is lost.
        """
        self._line.restore()
        try:
            with ended_by(self._line.cut):
                response = self._session.post(
                    f"{self.address.url}/function/{function}",
                    data=body,
                    headers={"Content-Type": "application/json"},
                    timeout=(_CONNECT_SECONDS, deadline_seconds),
                    allow_redirects=False,
                )
        except requests.ReadTimeout as error:
            raise InvocationFailed(
                f"function {function}: no reply within {deadline_seconds:.0f} s"
            ) from error
        except requests.RequestException as error:
            if _was_connected(error):
                raise LostReply(
                    f"function {function}: the connection ended without a reply ({_cause(error)})"
                ) from error
            raise self._unreachable(error) from error
        if response.status_code // 100 == 2:
            return response.content
        raise _error_of(function, self.address.url, response)

    def enqueue(self, function: str, body: bytes, call: str, callback: str) -> None:
        """Return once the gateway has taken a call into its queue: `POST /async-function/{name}`.

        Args:
            function: its name, as in `invoke`.
            body: JSON.
            call: the call's id, for `X-Call-Id`.
            callback: path and query at this gateway, for `X-Callback-Url`: where the reply is sent.

        Raises:
            FunctionRefused: the gateway has no queue; the message says what to do.
            FunctionMissing, FunctionBusy, GatewayUnreachable, InvocationFailed: as `invoke`.
        """
        path = f"/async-function/{function}"
        try:
            response = self._session.post(
                f"{self.address.url}{path}",
                data=body,
                headers={
                    "Content-Type": "application/json",
                    "X-Call-Id": call,
                    "X-Callback-Url": f"{self.address.url}{callback}",
                },
                timeout=(_CONNECT_SECONDS, _CONTROL_SECONDS),
                allow_redirects=False,
            )
        except requests.RequestException as error:
            raise self._unreachable(error) from error
        if response.status_code == 202:
            return
        if response.status_code in (404, 405, 501) and _MISSING_FUNCTION not in response.content:
            raise FunctionRefused(
                f"the gateway at {self.address.url} has no queue for asynchronous calls "
                f"({response.status_code} to POST {path}): start its queue-worker, or take --invoke sync"
            )
        raise _error_of(function, self.address.url, response)

    def describe(self, function: str) -> dict[str, Any]:
        """Return the deployment and the status of one function: `GET /system/function/{name}`.

        Raises:
            FunctionMissing: it is not deployed.
            GatewayDenied, GatewayUnreachable: the gateway cannot be asked.
        """
        response = self._control("GET", f"/system/function/{function}")
        if response.status_code == 404:
            raise _error_of(function, self.address.url, response)
        description: dict[str, Any] = response.json()
        return description

    def functions(self) -> list[dict[str, Any]]:
        """Return every function's status: `GET /system/functions`; see `describe` for the errors."""
        listing: list[dict[str, Any]] = self._control("GET", "/system/functions").json()
        return listing

    def scale(self, function: str, replicas: int) -> None:
        """Ask for this many replicas: `POST /system/scale-function/{name}`; see `describe` for the errors."""
        body = {"serviceName": function, "replicas": replicas}
        self._control("POST", f"/system/scale-function/{function}", json=body)

    def update(self, specification: dict[str, Any]) -> None:
        """Ask for another deployment of a function: `PUT /system/functions`; replicas follow by and by.

        Args:
            specification: the whole of it, as `specification_of` gives it; what is left out is unset.

        Raises:
            FunctionMissing: it is not deployed.
            FunctionRefused: the gateway does not take it; the function is as it was.
            GatewayDenied, GatewayUnreachable: the gateway cannot be asked.
        """
        name = specification["service"]
        response = self._control("PUT", "/system/functions", json=specification)
        if response.status_code == 404:
            raise _error_of(name, self.address.url, response)
        if response.status_code not in (200, 202):
            raise FunctionRefused(
                f"the gateway at {self.address.url} refused another deployment of {name} "
                f"({response.status_code}): {response.text[:300].strip()}"
            )

    def info(self) -> dict[str, Any]:
        """Return what the gateway says of itself: `GET /system/info`; see `describe` for the errors."""
        found: dict[str, Any] = self._control("GET", "/system/info").json()
        return found

    def metrics(self) -> str:
        """Return the gateway's metrics as text, empty where it has none at this address.

        Raises:
            GatewayUnreachable: no answer.
        """
        response = self._control("GET", "/metrics")
        return response.text if response.status_code == 200 else ""

    def check(self) -> None:
        """Return if the gateway answers: `GET /healthz`.

        Raises:
            GatewayUnreachable: it does not; the message says what to start.
        """
        try:
            self._session.get(f"{self.address.url}/healthz", timeout=_CONNECT_SECONDS).raise_for_status()
        except requests.RequestException as error:
            raise self._unreachable(error) from error

    def _control(self, method: str, path: str, **arguments: Any) -> requests.Response:
        try:
            response = self._session.request(
                method,
                f"{self.address.url}{path}",
                auth=(self.address.user, self.address.password),
                timeout=(_CONNECT_SECONDS, _CONTROL_SECONDS),
                **arguments,
            )
        except requests.RequestException as error:
            raise self._unreachable(error) from error
        if response.status_code == 401:
            raise GatewayDenied(
                f"the gateway at {self.address.url} refused user {self.address.user!r}: "
                "set --gateway-password-file or PEERLESS_GATEWAY_PASSWORD to its basic-auth password"
            )
        if response.status_code >= 500:
            raise GatewayUnreachable(
                f"the gateway at {self.address.url} answered {response.status_code} to {path}: "
                f"{response.text[:200]}"
            )
        return response

    def _unreachable(self, error: requests.RequestException) -> GatewayUnreachable:
        return GatewayUnreachable(
            f"no answer from the gateway at {self.address.url} ({type(error).__name__}): "
            "start the platform with `peerless up`, or say where it is with --gateway"
        )


def specification_of(description: dict[str, Any]) -> dict[str, Any]:
    """Return what deploys a function as it is now: a status (`Gateway.describe`) without what only it has.

    Both forms: https://github.com/openfaas/faas/blob/master/api-docs/spec.openapi.yml.
    """
    specification = {key: description[key] for key in _OF_A_SPECIFICATION if description.get(key)}
    labels = {key: value for key, value in (description.get("labels") or {}).items() if key != _NAME_LABEL}
    return {"service": description["name"], **specification, "labels": labels}


def _error_of(function: str, gateway: str, response: requests.Response) -> PeerlessError:
    return error_of(function, gateway, response.status_code, response.content)


def error_of(function: str, gateway: str, status: int, body: bytes) -> PeerlessError:
    """Return the error that a reply means; a bare 502 is what OpenFaaS may answer after an OOM kill."""
    try:
        refusal = messages.decode(body, _Refusal)
    except (msgspec.DecodeError, ValueError):
        refusal = _Refusal(message=body[:300].decode(errors="replace").strip())
    kind = _BY_NAME.get(refusal.error) or _BY_STATUS.get(status, InvocationFailed)
    if status == 502 and not refusal.error:
        kind = LostReply
    if kind is FunctionMissing:
        return FunctionMissing(
            f"function {function} is not deployed at {gateway}: "
            "deploy it with `peerless up` or `faas-cli deploy -f stack.yml`"
        )
    if kind is OutOfMemory:
        return OutOfMemory(_out_of_memory_text(function, refusal), refusal.limit_bytes or 0)
    return kind(f"function {function} answered {status} {refusal.error}: {refusal.message}".rstrip(": "))


def _was_connected(error: requests.RequestException) -> bool:
    """Return whether a connection was lost that there had been, as when whatever computes is killed."""
    return isinstance(error, requests.exceptions.ChunkedEncodingError) or any(
        isinstance(each, urllib3.exceptions.ProtocolError) for each in error.args
    )


def _cause(error: requests.RequestException) -> str:
    return type(error.args[0].args[-1] if error.args and error.args[0].args else error).__name__


class _Refusal(msgspec.Struct, frozen=True):
    """The error reply of a function or of the gateway; fields that are not listed are ignored."""

    error: str = ""
    message: str = ""
    limit_bytes: int | None = 0
    peak_bytes: int = 0
    replica: str = ""


def _out_of_memory_text(function: str, refusal: _Refusal) -> str:
    sizes = refusal.message
    if refusal.limit_bytes:
        limit_mib, peak_mib = refusal.limit_bytes >> 20, refusal.peak_bytes >> 20
        sizes = f"limit {limit_mib} MiB, peak {peak_mib} MiB ({refusal.replica})"
    return (
        f"function {function} ran out of memory: {sizes.rstrip('.')}. Raise `limits.memory` in stack.yml and "
        "deploy it again, or take a smaller --batch-size or --micro-batch"
    )
