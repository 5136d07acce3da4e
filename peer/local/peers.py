"""Several peers of one run on this machine: each its own process, forked from one that has imported torch.

Four imports of torch cost six seconds on two cores; four forks cost nothing. The parent computes nothing, so
that it never has more than one thread when it forks. Children talk to it in JSON messages over a pipe.
"""

import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType

import msgspec
import torch

from peer import messages
from peer.config import RunConfig, RunStart
from peer.errors import PeerlessError, PeerLost
from peer.learning.optimizers import FlatOptimizer
from peer.messages import Message
from peer.records.rounds import RoundRecord
from peer.records.summary import PeerResult
from peer.session import Surroundings, run_peer

log = logging.getLogger(__name__)

_PR_SET_PDEATHSIG = 1


class _Failed(Message, frozen=True):
    """How a peer's process ended otherwise."""

    peer: int
    error: str
    message: str
    exit_code: int


_Event = RoundRecord | PeerResult | _Failed


def train_locally(
    surroundings: Surroundings,
    config: RunConfig,
    start: RunStart,
    on_record: Callable[[RoundRecord], None],
    enter: Callable[[int], None] = lambda _rank: None,
) -> list[PeerResult]:
    """Return the results of all peers, once their processes have ended.

    Each peer's process calls `enter` with its rank before anything else.

    SIGINT and SIGTERM are handed on to the peers, which checkpoint and stop; a second one ends them at once.

    Raises:
        PeerlessError: of the first peer that failed for a reason of its own.
    """
    # the first optimizer imports two seconds' worth of torch: here once, and not in every peer
    FlatOptimizer(torch.zeros(1), config.optimizer)
    context = get_context("fork")
    processes, pipes = [], []
    for rank in range(config.num_peers):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(
            target=_run_child, args=(surroundings, config, start, rank, sender, enter), name=f"peer-{rank}"
        )
        process.start()
        sender.close()
        processes.append(process)
        pipes.append(receiver)
    with _handing_on_signals([process.pid or 0 for process in processes]):
        results, failures = _listen(pipes, on_record)
        for process in processes:
            process.join()
    heard_of = {result.peer for result in results} | {failure.peer for failure in failures}
    for rank, process in enumerate(processes):
        if rank not in heard_of:
            failures.insert(0, _killed(config.run, rank, process.exitcode))
    if failures:
        raise _first_cause(failures)
    return results


def _listen(
    pipes: list[Connection], on_record: Callable[[RoundRecord], None]
) -> tuple[list[PeerResult], list[_Failed]]:
    results: list[PeerResult] = []
    failures: list[_Failed] = []
    is_open = list(pipes)
    while is_open:
        for pipe in wait(is_open):
            assert isinstance(pipe, Connection)
            try:
                event = _decode(pipe.recv_bytes())
            except (EOFError, OSError):
                is_open.remove(pipe)
                continue
            if isinstance(event, RoundRecord):
                on_record(event)
            elif isinstance(event, PeerResult):
                results.append(event)
            else:
                failures.append(event)
    return sorted(results, key=lambda result: result.peer), failures


def _run_child(
    surroundings: Surroundings,
    config: RunConfig,
    start: RunStart,
    rank: int,
    sender: Connection,
    enter: Callable[[int], None],
) -> None:
    enter(rank)
    _leave_the_terminal(surroundings, rank)

    def send(event: _Event) -> None:
        sender.send_bytes(_encode(event))

    try:
        send(run_peer(surroundings, config, start, rank, send))
    except PeerlessError as error:
        log.error("%s", error)
        send(_Failed(rank, type(error).__name__, str(error), error.exit_code))
        sys.exit(error.exit_code)
    except Exception as error:
        log.exception("peer %d ended with an error that nobody expected", rank)
        log_path = surroundings.directory / f"peer-{rank}.log"
        send(_Failed(rank, type(error).__name__, f"{error!r}; the traceback is in {log_path}", 1))
        sys.exit(1)


def _leave_the_terminal(surroundings: Surroundings, rank: int) -> None:
    """Make this process end with its parent, get signals only from it, and log to a file of its own."""
    os.setpgid(0, 0)
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    log_to(surroundings.directory / f"peer-{rank}.log", rank)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(logging.root.handlers[0].stream.fileno(), stream.fileno())  # type: ignore[attr-defined]


def log_to(path: Path, rank: int) -> None:
    """Log this process' warnings and progress to a file from now on."""
    logging.basicConfig(
        filename=path,
        level=logging.INFO,
        force=True,
        format=f"%(asctime)s peer {rank} %(levelname)s %(name)s: %(message)s",
    )


@contextmanager
def _handing_on_signals(children: list[int]) -> Iterator[None]:
    def hand_on(number: int, _frame: FrameType | None) -> None:
        for child in children:
            try:
                os.kill(child, number)
            except ProcessLookupError:
                continue

    previous = {number: signal.signal(number, hand_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


_KINDS: dict[bytes, type[_Event]] = {b"r": RoundRecord, b"o": PeerResult, b"f": _Failed}


def _encode(event: _Event) -> bytes:
    (tag,) = (tag for tag, kind in _KINDS.items() if type(event) is kind)
    return tag + messages.encode(event)


def _decode(body: bytes) -> _Event:
    return msgspec.json.decode(body[1:], type=_KINDS[body[:1]])


def _killed(run: str, rank: int, exit_code: int | None) -> _Failed:
    name = (
        signal.Signals(-exit_code).name if exit_code is not None and exit_code < 0 else f"status {exit_code}"
    )
    text = f"peer {rank} of run {run} ended by {name}. Go on with `peerless resume {run}`"
    return _Failed(rank, PeerLost.__name__, text, PeerLost.exit_code)


def _first_cause(failures: list[_Failed]) -> PeerlessError:
    """Return the failure that the others follow from: any but the loss of another peer comes first."""
    cause = min(failures, key=lambda failure: failure.error == PeerLost.__name__)
    error = PeerlessError(cause.message)
    error.exit_code = cause.exit_code
    return error
