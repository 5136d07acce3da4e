"""Threads for calls that block: the event loop never waits for the Docker daemon."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

_NUM_THREADS = 16


class Workers:
    """A bounded number of threads, used from one event loop."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(_NUM_THREADS, thread_name_prefix="docker")

    def run(
        self,
        call: Callable[_Parameters, _Result],
        *arguments: _Parameters.args,
        **options: _Parameters.kwargs,
    ) -> asyncio.Future[_Result]:
        """Return what will be the result of a blocking call; cancelling it does not stop the call."""
        return asyncio.get_running_loop().run_in_executor(self._threads, lambda: call(*arguments, **options))

    def close(self) -> None:
        """Wait for the calls that run, and end the threads."""
        self._threads.shutdown()
