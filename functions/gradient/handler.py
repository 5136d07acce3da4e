"""The `gradient` function (PROTOCOL.md): the mean gradient of some batches, put into the store."""

import os
from functools import cache
from typing import Any

from peer.learning.serving import Reply, Service
from peer.learning.worker import Worker
from peer.messages import GradientRequest


@cache
def service() -> Service:
    """Return this replica's service, made at its first request."""
    return Service.from_environment(os.environ)


def handle(event: Any, context: Any) -> Reply:
    """Answer one request.

    Args:
        event: its `body` is a JSON `GradientRequest`.
        context: not used.
    """
    return service().answer(event.body, GradientRequest, Worker.gradient)
