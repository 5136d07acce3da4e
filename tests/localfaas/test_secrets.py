"""Secrets: kept, given to functions, and shown to nobody else."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

READER = """
import os
from pathlib import Path

def handle(event, context):
    folder = Path(os.environ["secret_mount_path"])
    if "write" in event.query:
        (folder / "token").write_text("x")
    return {"body": {
        "folder": str(folder), "files": {path.name: path.read_text() for path in folder.iterdir()},
        "modes": [oct(path.stat().st_mode & 0o777) for path in (folder, *folder.iterdir())],
    }}
"""
VALUE = "a-value-that-nobody-else-may-see"


@pytest.fixture
def reading(make_gateway: Callable[..., Any], project: Any) -> Any:
    """A gateway with the function `reader`, which is given the secret `token`."""
    project.add("reader", READER, secrets=["token"])
    gateway = make_gateway()
    gateway.system("POST", "secrets", json={"name": "token", "value": VALUE})
    gateway.deploy()
    return gateway


def names(gateway: Any) -> list[str]:
    return [each["name"] for each in gateway.system("GET", "secrets").json()]


def test_secret_life_has_the_expected_codes(gateway: Any) -> None:
    body = {"name": "life", "namespace": "openfaas-fn", "value": VALUE}

    assert gateway.system("PUT", "secrets", json=body).status_code == 404
    assert gateway.system("POST", "secrets", json=body).status_code == 201
    assert gateway.system("POST", "secrets", json=body).status_code == 409
    assert gateway.system("PUT", "secrets", json={**body, "value": "b"}).status_code == 202
    listed = gateway.system("GET", "secrets?namespace=openfaas-fn")
    assert listed.json() == [{"name": "life", "namespace": "openfaas-fn"}]
    assert gateway.system("DELETE", "secrets", json={"name": "life"}).status_code == 202
    assert gateway.system("DELETE", "secrets", json={"name": "life"}).status_code == 404
    assert gateway.system("GET", "secrets").json() == []


@pytest.mark.parametrize(
    "name",
    ["../x", "a/b", "A", "", ".", "..", ".a", "a.", "a..b", "-a", "a_b", "a\n", "a\0", "a" * 254, None, 3],
)
def test_secret_hostile_name_is_400(gateway: Any, name: object) -> None:
    for method in ("POST", "PUT", "DELETE"):
        reply = gateway.system(method, "secrets", json={"name": name, "value": VALUE})

        assert reply.status_code == 400
        assert VALUE not in reply.text
    assert names(gateway) == []


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"value": ""},
        {"value": 3},
        {"rawValue": "***"},
        {"value": "x" * ((1 << 20) + 1)},
        {"value": "\ud800"},
    ],
)
def test_secret_without_a_usable_value_is_400(gateway: Any, fields: dict[str, Any]) -> None:
    assert gateway.system("POST", "secrets", json={"name": "bad", **fields}).status_code == 400
    assert names(gateway) == []


def test_secret_of_another_namespace_is_400(gateway: Any) -> None:
    body = {"name": "other", "namespace": "elsewhere", "value": VALUE}

    assert gateway.system("POST", "secrets", json=body).status_code == 400
    assert gateway.system("GET", "secrets?namespace=elsewhere").status_code == 400


def test_function_with_an_unknown_secret_is_400(gateway: Any) -> None:
    body = {"service": "other", "image": "test/probe:latest", "secrets": ["no-such"]}

    reply = gateway.system("POST", "functions", json=body)

    assert reply.status_code == 400
    assert "secret no-such does not exist" in reply.text
    assert len(gateway.system("GET", "functions").json()) == 1


def test_function_finds_its_secrets_alone_and_read_only(reading: Any) -> None:
    reading.system("POST", "secrets", json={"name": "another", "value": "not for this function"})

    seen = reading.call("reader").json()

    assert seen["files"] == {"token": VALUE}
    assert seen["modes"] == ["0o700", "0o600"]
    if seen["folder"] == "/var/openfaas/secrets":
        assert reading.call("reader", write=1).status_code == 500
        assert not list(Path("/var/openfaas/secrets").iterdir()), "the mount is the replica's alone"
        with pytest.raises(StopIteration):
            next(line for line in Path("/proc/self/mounts").read_text().splitlines() if "openfaas" in line)


def test_function_execd_finds_its_secrets_too(make_gateway: Callable[..., Any], project: Any) -> None:
    project.add("reader", READER, secrets=["token"], fprocess="python -u index.py")
    template = project.directory / "template" / "peerless" / "template.yml"
    template.write_text("language: peerless\nfprocess: python index.py\n")
    gateway = make_gateway()
    value = b"\x00\xe2\x82\xac bytes".decode()
    raw = base64.b64encode(value.encode()).decode()
    gateway.system("POST", "secrets", json={"name": "token", "value": "?", "rawValue": raw})
    gateway.deploy()

    assert gateway.call("reader").json()["files"] == {"token": value}


def test_changed_secret_is_seen_by_the_next_deployment(reading: Any, until: Callable[..., Any]) -> None:
    reading.system("PUT", "secrets", json={"name": "token", "value": "changed"})

    reading.deploy()

    until(lambda: reading.call("reader").json()["files"] == {"token": "changed"}, "the new value is seen")


def test_removed_secret_is_named_where_a_replica_cannot_start(
    reading: Any, until: Callable[..., Any]
) -> None:
    reading.system("DELETE", "secrets", json={"name": "token"})
    assert reading.call("reader").status_code == 200

    reading.system("POST", "scale-function/reader", json={"replicas": 2})

    until(
        lambda: (
            "secret 'token' was removed"
            in reading.status("reader")["annotations"].get("localfaas.last-error", "")
        ),
        "describe says why",
    )


def test_removed_function_leaves_no_copy(reading: Any, until: Callable[..., Any]) -> None:
    folder = reading.state_dir / "mounts" / "reader"
    assert folder.exists()

    reading.system("DELETE", "functions", json={"functionName": "reader"})

    until(lambda: not folder.exists(), "the copies are gone")


def test_secrets_survive_a_kill_and_are_private(reading: Any) -> None:
    reading.kill()
    (reading.state_dir / "secrets" / "openfaas-fn" / ".half.x").write_text(VALUE)

    reading.start()

    reading.wait_available("reader", 1)
    assert names(reading) == ["token"]
    assert reading.call("reader").json()["files"] == {"token": VALUE}
    for path in (reading.state_dir / "secrets").rglob("*"):
        assert path.stat().st_mode & 0o077 == 0
        assert path.name in ("openfaas-fn", "token")


def test_value_reaches_no_log_command_line_environment_or_answer(reading: Any) -> None:
    reading.system("POST", "secrets", data=json.dumps({"name": "token", "value": VALUE}))
    reading.call("reader")
    shown = [
        json.dumps(reading.status("reader")),
        reading.system("GET", "functions").text,
        reading.system("GET", "secrets").text,
        reading.system("GET", "logs?name=reader").text,
        reading.errors,
        (reading.state_dir / "functions" / "reader.json").read_text(),
    ]
    for pid in [reading.process.pid, *reading.all_pids()]:
        process = psutil.Process(pid)
        shown += [" ".join(process.cmdline()), json.dumps(process.environ())]

    assert not any(VALUE in text for text in shown)
