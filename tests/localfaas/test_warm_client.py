"""The gateway's end of a warm parent, with a real one at the other."""

import asyncio
import os
import signal

import psutil

from localfaas.runtimes.warm_client import WarmParentClient


class CountingClient(WarmParentClient):
    num_attempts = 0

    def _send_kills(self) -> None:
        self.num_attempts += 1
        super()._send_kills()


async def attempts_while_parent_is_stopped(num_kills: int) -> list[int]:
    """Return how often was tried to send at once, some time later, and once all had been taken."""
    client = CountingClient((), os.environ)
    parent = psutil.Process(client._process.pid)
    parent.suspend()
    for _ in range(num_kills):
        client.kill("nobody", signal.SIGTERM)
    found = [client.num_attempts]
    await asyncio.sleep(0.1)
    found.append(client.num_attempts)
    parent.resume()
    while client._unsent_kills:
        await asyncio.sleep(0.01)
    found.append(client.num_attempts)
    assert parent.is_running()
    await client.close()
    return found


def test_kills_that_fill_the_socket_wait_for_room_and_are_all_sent() -> None:
    at_once, later, in_the_end = asyncio.run(asyncio.wait_for(attempts_while_parent_is_stopped(3_000), 60))

    assert at_once == later < in_the_end
