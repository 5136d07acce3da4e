"""What a replica writes, on its way to the log."""

import asyncio
import subprocess
import threading

from localfaas.runtimes.log_pipe import LogPipe


def test_pipe_is_closed_though_somebody_goes_on_writing() -> None:
    lines: list[str] = []

    async def scenario() -> bool:
        pipe = LogPipe(lines.append)
        flood = subprocess.Popen(["yes"], stdout=pipe.write_fd, stderr=subprocess.DEVNULL)
        # Whatever happens, it comes to an end.
        end = threading.Timer(20, flood.kill)
        end.start()
        pipe.close_writing()
        while not lines:
            await asyncio.sleep(0.01)
        pipe.close()
        is_still_writing = end.is_alive()
        end.cancel()
        flood.kill()
        flood.wait()
        return is_still_writing

    assert asyncio.run(scenario())
    assert set(lines[:-1]) == {"y"}
