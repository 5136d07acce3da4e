"""Starting a store on this machine, and what goes wrong with it."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from peer.errors import ConfigurationError, PlatformError, StoreDenied
from peer.store.nanio_data import sweep
from peer.store.retry import Patience
from peer.store.s3 import Store, StoreAddress
from peer.store.servers import (
    LOOPBACK,
    Credentials,
    ServerKind,
    find_minio,
    free_port,
    is_port_free,
    load_or_create_credentials,
    server_command,
    start_server,
    wait_until_ready,
)

if TYPE_CHECKING:
    from tests.conftest import StoreServer

CREDENTIALS = Credentials("peerless", "a-secret-for-tests")


def make_program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def test_find_minio_prefers_the_setting_then_path_then_the_installed(tmp_path: Path) -> None:
    named = make_program(tmp_path / "named" / "a-minio")
    on_path = make_program(tmp_path / "bin" / "minio")
    installed = make_program(tmp_path / "data" / "peerless" / "bin" / "minio")
    environment = {"PATH": str(on_path.parent), "XDG_DATA_HOME": str(tmp_path / "data")}

    assert find_minio({**environment, "PEERLESS_MINIO": str(named)}) == named
    assert find_minio(environment) == on_path
    assert find_minio({**environment, "PATH": ""}) == installed
    assert find_minio({"PATH": "", "HOME": str(tmp_path)}) is None


def test_find_minio_with_wrong_setting_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="PEERLESS_MINIO"):
        find_minio({"PEERLESS_MINIO": str(tmp_path / "nothing")})


def test_free_port_is_free_until_something_listens() -> None:
    port = free_port()
    assert is_port_free(LOOPBACK, port)

    with socket.create_server((LOOPBACK, port)):
        assert not is_port_free(LOOPBACK, port)


def test_credentials_are_generated_once_for_this_user_alone(tmp_path: Path) -> None:
    path = tmp_path / "store.json"

    created = load_or_create_credentials(path)

    assert load_or_create_credentials(path) == created
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(created.secret_key) >= 32
    assert created.secret_key not in repr(created)
    assert load_or_create_credentials(tmp_path / "other.json").secret_key != created.secret_key


@pytest.mark.parametrize("text", ["", "[]", "{}", "{"])
def test_credentials_in_a_damaged_file_are_not_replaced(tmp_path: Path, text: str) -> None:
    path = tmp_path / "store.json"
    path.write_text(text)

    with pytest.raises(PlatformError, match="store.json"):
        load_or_create_credentials(path)

    assert path.read_text() == text


@pytest.mark.parametrize("kind", list(ServerKind))
def test_server_command_shows_no_secret_and_listens_on_loopback(
    kind: ServerKind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PEERLESS_MINIO", str(make_program(tmp_path / "minio-program")))

    command = server_command(kind, tmp_path, 1234, CREDENTIALS)

    line = " ".join(command.arguments)
    assert CREDENTIALS.secret_key not in line + repr(command)
    assert CREDENTIALS.secret_key in command.environment.values()
    assert LOOPBACK in line
    assert "0.0.0.0" not in line


def test_server_command_without_minio_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PEERLESS_MINIO", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))

    with pytest.raises(PlatformError, match="install-minio.sh"):
        server_command(ServerKind.MINIO, tmp_path, 1234, CREDENTIALS)


def test_server_listens_on_loopback_only_in_its_own_session(mortal_server: StoreServer) -> None:
    assert mortal_server.process is not None
    listening = Path("/proc/net/tcp").read_text() + Path("/proc/net/tcp6").read_text()

    # local address and port in hexadecimal; state 0A is LISTEN
    addresses = {
        fields[1].partition(":")[0]
        for fields in map(str.split, listening.splitlines())
        if fields[1].endswith(f":{mortal_server.port:04X}") and fields[3] == "0A"
    }

    assert "0100007F" in addresses
    assert addresses <= {"0100007F", "0" * 24 + "01000000"}
    assert os.getsid(mortal_server.process.pid) == mortal_server.process.pid


def test_server_ignores_settings_of_another_installation(
    mortal_server: StoreServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mortal_server.kill()
    for name in ("NANIO_HOST", "NANIO_OPTIONS_FILE", "NANIO_DATA_DIR", "MINIO_ROOT_USER_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "elsewhere"))

    mortal_server.start()

    assert not (tmp_path / "elsewhere").exists()


def test_servers_keep_their_data_apart(tmp_path: Path, minio_server: StoreServer) -> None:
    for kind in ServerKind:
        server = type(minio_server)(kind, tmp_path)
        server.start()
        server.kill()

    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {"minio", "nanio", "minio-certs"}


@pytest.mark.parametrize("kind", list(ServerKind))
def test_server_on_a_port_in_use_says_so(
    kind: ServerKind, tmp_path: Path, nanio_server: StoreServer, request: pytest.FixtureRequest
) -> None:
    if kind is ServerKind.MINIO:
        request.getfixturevalue("minio_server")
    address = StoreAddress(nanio_server.address.endpoint, CREDENTIALS.access_key, "another-secret")
    log_path = tmp_path / "log"
    process = start_server(kind, tmp_path, nanio_server.port, CREDENTIALS, log_path)
    store = Store(address)

    with pytest.raises((PlatformError, StoreDenied)):
        wait_until_ready(process, store, log_path)

    process.wait(10)
    assert "in use" in log_path.read_text()
    store.close()


def test_wait_until_ready_of_server_that_ends_shows_its_log(tmp_path: Path) -> None:
    log_path = tmp_path / "log"
    log_path.write_text("something\nis wrong here\n")
    process = subprocess.Popen(["false"])
    store = Store(StoreAddress(f"http://{LOOPBACK}:{free_port()}", "me", "secret"))

    with pytest.raises(PlatformError, match="ended with status 1.*is wrong here"):
        wait_until_ready(process, store, log_path)


def test_wait_until_ready_out_of_patience_says_where(tmp_path: Path) -> None:
    log_path = tmp_path / "log"
    log_path.touch()
    process = subprocess.Popen(["sleep", "60"])
    port = free_port()
    store = Store(StoreAddress(f"http://{LOOPBACK}:{port}", "me", "secret"))

    with pytest.raises(PlatformError, match=f"{port} did not answer .*its log is empty"):
        wait_until_ready(process, store, log_path, Patience(0.1))

    process.kill()
    process.wait()


def test_sweep_removes_what_a_kill_left_and_nothing_else(tmp_path: Path) -> None:
    def write(path: str, text: str) -> Path:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
        return tmp_path / path

    def metadata(size: int) -> str:
        return json.dumps({"size": size, "etag": '""'})

    kept = [
        write("bucket/a/key", "12345"),
        write("bucket/.nanio-meta/a/key.json", metadata(5)),
        write("bucket/a/key.json.tmp", "an object of this name"),
        write("bucket/.nanio-meta/a/key.json.tmp.json", metadata(22)),
        write("bucket/a/.tmp.short", "an object of this name"),
        write("bucket/a/without-metadata", "12345"),
        write("bucket/a/overwritten", "longer than before"),
        write(".nanio/multipart/upload/init.json", "{}"),
    ]
    removed = [
        write("bucket/a/.tmp.0123456789abcdef0123456789abcdef", "half"),
        write("bucket/.nanio-meta/a/key.json.tmp", ""),
        write("bucket/.nanio-meta/a/overwritten.json", metadata(3)),
        write("bucket/.nanio-meta/a/removed.json", metadata(3)),
        write("bucket/.nanio-meta/a/torn.json", "{"),
    ]

    assert sorted(sweep(tmp_path)) == sorted(removed)

    assert all(path.exists() for path in kept)
    assert not any(path.exists() for path in removed)
    assert sweep(tmp_path) == []
