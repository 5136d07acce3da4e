"""The `aggregate` function (PROTOCOL.md): the mean of one part of all gradients, put into the store."""

import os
from functools import cache
from typing import Any

from peer.learning.serving import Reply, Service
from peer.learning.worker import Worker
from peer.messages import AggregateRequest


@cache
def service() -> Service:
    """Return this replica's service, made at its first request."""
    return Service.from_environment(os.environ)


def handle(event: Any, context: Any) -> Reply:
    """Answer one request.

    Args:
        event: its `body` is a JSON `AggregateRequest`.
        context: not used.
    """
    return service().answer(event.body, AggregateRequest, Worker.aggregate)
