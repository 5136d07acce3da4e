"""Every error that localfaas raises on purpose.

LocalFaasError            exit 1
├── ConfigurationError    exit 2   an option, a stack file, a template or the state directory is wrong
├── PortInUse             exit 2   the address to listen at is taken
├── DeployFailed          exit 3   a gateway refused a deployment, or a function did not become ready
├── BadRequest            400      a deployment that cannot be run
├── FunctionNotFound      404
├── RequestTooSlow        408      its body did not come within the function's read_timeout
├── SecretNotFound        404
├── NamespaceNotFound     404
├── SecretExists          409
├── NamespaceExists       409
├── NamespaceInUse        409      it has functions or secrets, or is the default one
├── PayloadTooLarge       413      the body of an asynchronous call is longer than may be
├── QueueFull             429      as many requests wait as may
├── QueueStorageFailed    500      the queue of asynchronous calls cannot be read or written
├── StorageFailed         500      a file of the state directory cannot be written
├── NotAccepting          503      the gateway or the function is shutting down
├── RuntimeUnavailable    503      the Docker daemon does not answer
├── FunctionUnavailable   503      no replica of the function stays up
├── StorageFull           507      the disk of the state directory has no room for what was asked
├── ReplyTooLong          507      the reply to an asynchronous call is longer than is kept
└── StartFailed           (none)   one replica did not start; the pool tries again
"""

import json
from collections.abc import Mapping


class LocalFaasError(Exception):
    """An error whose message says what happened, where, and what to do."""

    exit_code = 1
    status = 500
    kind = "internal"
    details: Mapping[str, object] = {}
    """Further fields of the answer."""

    def to_json(self) -> bytes:
        """Return the body of the answer that tells a function's caller."""
        return json.dumps({"error": self.kind, "message": str(self), **self.details}).encode()


class ConfigurationError(LocalFaasError):
    """An option, a stack file, a template or the state directory is wrong; nothing was changed."""

    exit_code = 2


class PortInUse(LocalFaasError):
    """Another process listens at the address; nothing was started."""

    exit_code = 2


class DeployFailed(LocalFaasError):
    """A gateway refused a deployment, or a function did not become ready in time."""

    exit_code = 3


class BadRequest(LocalFaasError):
    """The request names something impossible; nothing was changed."""

    status = 400
    kind = "bad_request"


class RequestTooSlow(LocalFaasError):
    """A request did not come whole within its function's read_timeout; the function may have seen a part."""

    status = 408
    kind = "request_too_slow"


class FunctionNotFound(LocalFaasError):
    """No function of that name is deployed."""

    status = 404
    kind = "function_not_found"


class SecretNotFound(LocalFaasError):
    """There is no secret of that name."""

    status = 404
    kind = "secret_not_found"


class NamespaceNotFound(LocalFaasError):
    """There is no namespace of that name."""

    status = 404
    kind = "namespace_not_found"


class NamespaceExists(LocalFaasError):
    """A namespace of that name is there already; it is as it was."""

    status = 409
    kind = "namespace_exists"


class NamespaceInUse(LocalFaasError):
    """The namespace has functions or secrets, or is the default one; it stays as it is."""

    status = 409
    kind = "namespace_in_use"


class SecretExists(LocalFaasError):
    """A secret of that name is there already; it is as it was."""

    status = 409
    kind = "secret_exists"


class QueueFull(LocalFaasError):
    """As many requests wait for the function as may; this one was not queued."""

    status = 429
    kind = "queue_full"


class PayloadTooLarge(LocalFaasError):
    """The body of an asynchronous call is longer than may be; it was not queued."""

    status = 413
    kind = "payload_too_large"


class QueueStorageFailed(LocalFaasError):
    """The queue of asynchronous calls cannot be read or written; what was in it still is."""

    kind = "queue_storage_failed"


class StorageFailed(LocalFaasError):
    """A file of the state directory cannot be written; the one that was there is as it was."""

    kind = "storage_failed"


class StorageFull(LocalFaasError):
    """The disk of the state directory has no room for what was asked; what was on it still is."""

    status = 507
    kind = "storage_full"

    def __init__(self, message: str, directory: str) -> None:
        super().__init__(message)
        self.details = {"directory": directory}


class NotAccepting(LocalFaasError):
    """The gateway, or the function, is shutting down and takes no more requests."""

    status = 503
    kind = "not_accepting"


class RuntimeUnavailable(LocalFaasError):
    """What runs the replicas does not answer; what it runs goes on, or has ended."""

    status = 503
    kind = "runtime_unavailable"


class FunctionUnavailable(LocalFaasError):
    """Replica after replica of the function ended at its start."""

    status = 503
    kind = "function_unavailable"


class ReplyTooLong(LocalFaasError):
    """The reply to an asynchronous call is longer than is kept for its callback; nothing of it is."""

    status = 507
    kind = "reply_too_long"


class StartFailed(LocalFaasError):
    """One replica did not start; nothing of it is left."""
