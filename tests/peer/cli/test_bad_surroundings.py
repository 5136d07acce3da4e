"""A store, gateway, clock, disk or platform that is not as it should be: which, where, and what to do."""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from peer import messages
from peer.local.companions import CompanionState
from peer.local.platform import FUNCTIONS, Platform, PlatformState
from peer.local.processes import Process, identify
from peer.store.servers import free_port

SMALL = ("--dataset", "synthetic-640-1x20x20", "--batch-size", "16", "--rounds", "1", "--compute", "local")


@pytest.fixture
def nowhere() -> str:
    """An address at which nobody listens."""
    return f"http://127.0.0.1:{free_port()}"


@pytest.fixture
def small_store(nanio_server, monkeypatch) -> None:
    """A bucket of its own in a running store, named by the environment."""
    address = nanio_server.new_address()
    monkeypatch.setenv("PEERLESS_STORE", address.endpoint)
    monkeypatch.setenv("PEERLESS_STORE_ACCESS_KEY", address.access_key)
    monkeypatch.setenv("PEERLESS_STORE_SECRET_KEY", address.secret_key)
    monkeypatch.setenv("PEERLESS_BUCKET", address.bucket)


@pytest.fixture
def slow_clock() -> Iterator[str]:
    """A server whose clock is ten minutes behind ours."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.send_response_only(403)
            self.send_header("Date", formatdate(time.time() - 600, usegmt=True))
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_GET = do_HEAD = _answer

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def with_key(monkeypatch, endpoint, secret="not-the-secret"):
    monkeypatch.setenv("PEERLESS_STORE_SECRET_KEY", secret)
    return ("--store", endpoint, "--store-access-key", "somebody")


def test_store_that_does_not_answer_is_named_with_exit_code_11(peerless, monkeypatch, nowhere):
    outcome = peerless("train", *SMALL, *with_key(monkeypatch, nowhere))

    assert outcome.code == 11
    assert f"no store answers at {nowhere}" in outcome.said
    assert "peerless up" in outcome.said


@pytest.mark.parametrize("endpoint", ["127.0.0.1:9000", "ftp://127.0.0.1", "http://127.0.0.1:9000/bucket"])
def test_store_address_that_is_none_is_refused(peerless, monkeypatch, endpoint):
    outcome = peerless("data", "list", *with_key(monkeypatch, endpoint))

    assert outcome.code == 2
    assert "write http://host:port" in outcome.said


def test_wrong_store_credentials_have_exit_code_12(peerless, monkeypatch, nanio_server):
    outcome = peerless("data", "list", *with_key(monkeypatch, nanio_server.address.endpoint))

    assert outcome.code == 12
    assert "refuses the access key 'somebody'" in outcome.said


def test_clock_ten_minutes_off_has_exit_code_16(peerless, monkeypatch, slow_clock):
    outcome = peerless("train", *SMALL, *with_key(monkeypatch, slow_clock))

    assert outcome.code == 16
    assert f"s ahead of that of the store at {slow_clock}" in outcome.said


def test_gateway_that_does_not_answer_is_named_before_torch_is_imported(peerless, small_store, nowhere):
    began = time.monotonic()

    outcome = peerless("train", "--gateway", nowhere)

    assert outcome.code == 21
    assert f"no answer from the gateway at {nowhere}" in outcome.said
    assert "peerless up" in outcome.said
    assert time.monotonic() - began < 5


@pytest.mark.parametrize("url", ["127.0.0.1:8080", "http://", "http://host:port", "ftp://127.0.0.1"])
def test_gateway_address_that_is_none_is_refused(peerless, small_store, url):
    outcome = peerless("train", "--gateway", url)

    assert outcome.code == 2
    assert "write http://host:port" in outcome.said


RUNS = {
    "unknown model": (["--model", "nope"], 2, "unknown model 'nope': choose cnn"),
    "model that is none": (["--model", "os:sep"], 2, "os:sep"),
    "unknown argument": (["--model-arguments", "{width: 3}"], 2, "has no argument 'width'"),
    "unknown dataset": (["--dataset", "nope"], 30, "unknown dataset 'nope': choose mnist"),
    "unknown partition": (["--partition", "by-hand"], 2, "take iid, or dirichlet:ALPHA"),
    "more peers than samples": (["--peers", "1000"], 2, "cannot share the 512 training samples"),
    "more batches than a shard has": (["--batches-per-round", "99"], 2, "the smallest shard has 8 batches"),
}


@pytest.mark.parametrize(("arguments", "code", "expected"), RUNS.values(), ids=RUNS.keys())
def test_run_that_cannot_be_is_refused_and_leaves_no_folder(
    peerless, small_store, tmp_path, arguments, code, expected
):
    peerless("data", "push", "synthetic-640-1x20x20")

    outcome = peerless("train", *SMALL, "--run", "digits", *arguments)

    assert outcome.code == code
    assert expected in outcome.err.splitlines()[-1]
    assert "Traceback" not in outcome.err
    assert not (tmp_path / "runs" / "digits").exists()
    assert peerless("runs", "list").out == ""


@pytest.mark.parametrize("command", [["resume"], ["runs", "show"], ["runs", "remove"], ["runs", "gc"]])
def test_unknown_run_is_named(peerless, small_store, command):
    outcome = peerless(*command, "nope")

    assert outcome.code == 2
    assert "there is no run 'nope'" in outcome.said


def test_missing_stored_dataset_is_named(peerless, small_store):
    outcome = peerless("data", "show", "nope")

    assert outcome.code == 30
    assert "run `peerless data push nope`" in outcome.said


def test_peer_whose_peer_0_does_not_come_says_how_to_start_it(peerless, small_store):
    outcome = peerless("peer", "digits", "--rank", "1", "--join-patience", "1")

    assert outcome.code == 42
    assert "start it with `peerless peer digits --rank 0`" in outcome.err


def test_runs_folder_that_cannot_be_made_has_exit_code_3(peerless, small_store, tmp_path):
    (tmp_path / "a-file").touch()

    taken = peerless("train", *SMALL, "--runs-dir", "a-file")
    impossible = peerless("train", *SMALL, "--runs-dir", "/proc/runs")

    assert (taken.code, impossible.code) == (3, 3)
    assert "a-file cannot be written: File exists" in taken.said
    assert "/proc/runs cannot be written" in impossible.said


def test_damaged_state_file_says_what_to_remove(peerless, tmp_path):
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    (state_dir / "platform.json").write_text('{"store":')

    for command in (["status"], ["up"], ["down"], ["data", "list"], ["train"]):
        outcome = peerless(*command, "--state-dir", state_dir)

        assert outcome.code == 50
        assert f"{state_dir / 'platform.json'} is damaged" in outcome.said


def test_second_up_at_the_same_time_is_refused(peerless, tmp_path, request):
    stack = request.config.rootpath / "stack.yml"
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    with (state_dir / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        outcome = peerless("up", "--state-dir", state_dir, "--stack", stack)

    assert outcome.code == 50
    assert "another `peerless up` or `down` works on" in outcome.said


def test_state_folder_that_cannot_be_made_is_named(peerless, request):
    stack = request.config.rootpath / "stack.yml"

    outcome = peerless("up", "--state-dir", "/proc/state", "--stack", stack)

    assert outcome.code == 2
    assert "--state-dir /proc/state cannot be made" in outcome.said


def test_down_and_status_where_nothing_runs(peerless, tmp_path):
    down = peerless("down", "--state-dir", tmp_path / "nothing")
    status = peerless("status", "--state-dir", tmp_path / "nothing")

    assert (down.code, down.err) == (0, "nothing was running\n")
    assert status.code == 50
    assert "not started" in status.out


def test_doctor_without_platform_says_what_is_missing(peerless):
    outcome = peerless("doctor")

    assert outcome.code == 2
    assert outcome.out.count("FAIL") == 2 + len(FUNCTIONS)
    assert "start one with `peerless up`" in outcome.out


@pytest.mark.parametrize(
    ("start_ticks", "liveness", "text"),
    [
        (0, "down", "has ended: `peerless up --prometheus` starts it where it was"),
        (None, "running", "does not answer: end process"),
    ],
    ids=["killed", "unreachable"],
)
def test_prometheus_that_is_gone_is_said_by_status_and_doctor(
    peerless, tmp_path, start_ticks, liveness, text
):
    process = identify(os.getpid())
    if start_ticks is not None:
        process = Process(process.pid, start_ticks)
    url = f"http://127.0.0.1:{free_port()}"
    state = PlatformState(companions={"prometheus": CompanionState(url, process)})
    (tmp_path / "platform.json").write_bytes(messages.encode(state))

    status = peerless("status", "--state-dir", tmp_path)
    doctor = peerless("doctor", "--state-dir", tmp_path)

    assert f"prometheus {liveness:<12} {url}" in status.out
    assert f"note  prometheus         {url} {text}" in doctor.out
    assert doctor.code == 2  # of the store, which is missing: no run needs a Prometheus


def test_platform_without_state_has_no_addresses(tmp_path):
    platform = Platform(tmp_path / "nothing")

    assert platform.store_address() is None
    assert platform.gateway_address() is None


def test_up_without_a_prometheus_program_says_so_before_anything_starts(peerless, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))

    outcome = peerless("up", "--prometheus")

    assert outcome.code == 50
    assert "no `prometheus` program: install it" in outcome.said
    assert not (tmp_path / "state-home" / "peerless").exists()


def test_queue_without_functions_is_refused(peerless, small_store):
    outcome = peerless("train", *SMALL, "--invoke", "async")

    assert outcome.code == 2
    assert "--invoke async needs functions" in outcome.said
