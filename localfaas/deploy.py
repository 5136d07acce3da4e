"""`localfaas deploy`: the REST calls that `faas-cli deploy` makes, for a machine without it."""

import base64
import json
import time
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

from localfaas.errors import ConfigurationError, DeployFailed
from localfaas.stack import Stack

_TIMEOUT_SECONDS = 30.0
_POLL_SECONDS = 0.05


class GatewayClient:
    """Calls `/system/*` of one gateway."""

    def __init__(self, url: str, password_file: Path, user: str = "admin") -> None:
        """Take a gateway's address and credentials.

        Raises:
            ConfigurationError: the password cannot be read.
        """
        try:
            password = password_file.read_text().strip()
        except OSError as error:
            raise ConfigurationError(f"cannot read the password {password_file}: {error.strerror}") from error
        self._url = url.rstrip("/")
        token = base64.b64encode(f"{user}:{password}".encode()).decode()
        self._headers = {"Authorization": f"Basic {token}", "Content-Type": "application/json"}

    def call(self, method: str, path: str, body: object = None) -> tuple[int, str]:
        """Return status and text of an answer, whatever the status.

        Raises:
            DeployFailed: there is no answer.
        """
        data = None if body is None else json.dumps(body).encode()
        request = Request(self._url + path, data, self._headers, method=method)
        try:
            with urlopen(request, timeout=_TIMEOUT_SECONDS) as reply:
                return reply.status, reply.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode(errors="replace")
        except URLError as error:
            raise DeployFailed(
                f"no gateway answers at {self._url}: {error.reason}; is `localfaas serve` up?"
            ) from error

    def deploy(self, body: dict[str, Any]) -> None:
        """Make a function run as `body` says, new or instead of an older one.

        Raises:
            DeployFailed: the gateway refused.
        """
        status, text = self.call("PUT", "/system/functions", body)
        if status == 404:
            status, text = self.call("POST", "/system/functions", body)
        if status not in (200, 202):
            raise DeployFailed(f"{self._url} refused function {body['service']} ({status}): {text.strip()}")

    def wait_available(self, name: str, patience_seconds: float, namespace: str = "") -> None:
        """Return once every replica of a function answers; in the default namespace where none is given.

        Raises:
            DeployFailed: that took too long; with the last error that the gateway shows.
        """
        deadline = time.monotonic() + patience_seconds
        query = "?" + urlencode({"namespace": namespace}) if namespace else ""
        while True:
            _, text = self.call("GET", f"/system/function/{name}{query}")
            status = json.loads(text)
            if status["availableReplicas"] >= status["replicas"]:
                return
            if time.monotonic() > deadline:
                reason = status.get("annotations", {}).get(
                    "localfaas.last-error", "its replicas do not answer yet"
                )
                seconds = round(patience_seconds, 1)
                raise DeployFailed(f"function {name} is not available after {seconds:g} s: {reason}")
            time.sleep(_POLL_SECONDS)


def deploy_stack(stack: Stack, client: GatewayClient, wait_seconds: float) -> None:
    """Make every function of a stack file run; wait up to `wait_seconds` for their replicas (0: do not).

    Raises:
        DeployFailed: one was refused or does not become available; those before it are deployed.
    """
    for function in stack.functions.values():
        client.deploy(function.deployment())
    if wait_seconds:
        deadline = time.monotonic() + wait_seconds
        for name, function in stack.functions.items():
            client.wait_available(name, max(0.0, deadline - time.monotonic()), function.namespace)
