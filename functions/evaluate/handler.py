"""The `evaluate` function (PROTOCOL.md): the loss and the correct predictions of some samples, summed."""

import os
from functools import cache
from typing import Any

from peer.learning.serving import Reply, Service
from peer.learning.worker import Worker
from peer.messages import EvaluateRequest


@cache
def service() -> Service:
    """Return this replica's service, made at its first request."""
    return Service.from_environment(os.environ)


def handle(event: Any, context: Any) -> Reply:
    """Answer one request, or keep what became of another function's asynchronous call.

    Args:
        event: its `body` is a JSON `EvaluateRequest`.
        context: not used.
    """
    reply_url = event.query.get("reply_url")
    if reply_url:
        return service().keep(event.headers.get("X-Function-Status", ""), event.body, reply_url)
    return service().answer(event.body, EvaluateRequest, Worker.evaluate)
