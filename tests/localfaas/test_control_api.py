"""The documented OpenFaaS REST API, with the status codes that its client relies on."""

import base64
import json
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

PROBE = {"service": "probe", "image": "test/probe:latest"}


def send_raw(url: str, request: bytes) -> bytes:
    """Send bytes that no client library would, and return the reply's first line."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port or 80), timeout=10) as connection:
        connection.sendall(request)
        return connection.makefile("rb").readline()


@pytest.mark.parametrize(
    "path", ["functions", "info", "function/probe", "logs?name=probe", "namespaces", "nothing"]
)
@pytest.mark.parametrize(
    "authorization",
    [None, "Bearer", "Bearer x", "Basic", "Basic " + base64.b64encode(b"admin:wrong").decode()],
)
def test_system_without_the_password_is_401(gateway: Any, path: str, authorization: str | None) -> None:
    headers = {"Authorization": authorization} if authorization else {}

    reply = requests.get(f"{gateway.url}/system/{path}", headers=headers, timeout=10)

    assert reply.status_code == 401
    assert reply.headers["WWW-Authenticate"] == 'Basic realm="Restricted"'


@pytest.mark.parametrize(
    "path",
    [
        b"/system%2Ffunctions",
        b"//system/functions",
        b"/./system/functions",
        b"/%73ystem/functions",
        b"/metrics/../system/functions",
    ],
)
def test_system_by_another_spelling_is_never_open(gateway: Any, path: bytes) -> None:
    line = send_raw(gateway.url, b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")

    assert line.split()[1] == b"401"


def test_info_has_the_form_of_a_gateway(gateway: Any) -> None:
    info = gateway.system("GET", "info").json()

    assert info["provider"]["provider"] == "localfaas"
    assert info["provider"]["version"]["release"] and info["version"]["sha"] and info["arch"]
    assert "memory limits are held by" in info["memory"]
    assert info["machine"]["cores"] >= 1 and info["machine"]["available_bytes"] > 0


def test_health_and_namespaces_are_answered(gateway: Any) -> None:
    assert requests.get(f"{gateway.url}/healthz", timeout=10).status_code == 200
    assert gateway.system("GET", "namespaces").json() == ["openfaas-fn"]


def test_list_and_describe_show_the_deployment(gateway: Any) -> None:
    listed = {each["name"]: each for each in gateway.system("GET", "functions").json()}
    described = gateway.system("GET", "function/probe?usage=1").json()

    usage = described.pop("usage")
    described.pop("invocationCount")
    listed["probe"].pop("invocationCount")
    assert described == listed["probe"]
    assert described["labels"] == {
        "com.openfaas.scale.min": "2",
        "com.openfaas.scale.max": "2",
        "faas_function": "probe",
    }
    assert described["envVars"] == {"exec_timeout": "20s"}
    assert (described["replicas"], described["availableReplicas"]) == (2, 2)
    assert usage["totalMemoryBytes"] > 0
    assert "limits" not in described


def test_deploy_life_of_a_function_has_the_expected_codes(gateway: Any) -> None:
    body = {**PROBE, "service": "other"}

    assert gateway.system("PUT", "functions", json=body).status_code == 404
    assert gateway.system("POST", "functions", json=body).status_code == 202
    assert gateway.system("PUT", "functions", json=body).status_code == 202
    gateway.wait_available("other", 1)
    assert gateway.call("other").status_code == 200
    assert gateway.call("other.openfaas-fn").status_code == 200
    assert gateway.system("DELETE", "functions", json={"functionName": "other"}).status_code == 202
    assert gateway.system("DELETE", "functions", json={"functionName": "other"}).status_code == 404
    assert gateway.call("other").status_code == 404
    assert gateway.metric("gateway_service_count", function_name="other.openfaas-fn") == 0
    assert "other" not in requests.get(f"{gateway.url}/metrics", timeout=10).text


def test_deploy_unknown_image_names_the_build_command(gateway: Any) -> None:
    reply = gateway.system("POST", "functions", json={**PROBE, "image": "nobody/built:this"})

    assert reply.status_code == 400
    assert "localfaas build" in reply.text


@pytest.mark.parametrize("name", ["../x", "a/b", "A", "", "a\u0000", "a" * 64, ".", "-"])
def test_deploy_hostile_name_is_400(gateway: Any, name: str) -> None:
    reply = gateway.system("POST", "functions", json={**PROBE, "service": name})

    assert reply.status_code == 400
    assert len(gateway.system("GET", "functions").json()) == 1


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff", b'"x"', b"null", b"[" * 10_000])
def test_deploy_broken_body_is_400(gateway: Any, data: bytes) -> None:
    assert gateway.system("POST", "functions", data=data).status_code == 400


def test_deploy_oversized_body_is_413(gateway: Any) -> None:
    assert gateway.system("POST", "functions", data=b" " * (5 << 20)).status_code == 413


def test_scale_within_the_maximum_changes_the_replicas(gateway: Any) -> None:
    gateway.system("POST", "functions", json={**PROBE, "service": "scaled"})

    for asked, given in ((3, 3), (99, 5), (1, 1), (0, 0)):
        reply = gateway.system(
            "POST", "scale-function/scaled", json={"serviceName": "scaled", "replicas": asked}
        )
        assert reply.status_code == 202
        gateway.wait_available("scaled", given)
    assert gateway.call("scaled").status_code == 200, "a request holds while a replica starts from zero"

    gateway.system("DELETE", "functions", json={"functionName": "scaled"})


@pytest.mark.parametrize("replicas", [-1, 1.5, "2", None, True])
def test_scale_to_nonsense_is_400(gateway: Any, replicas: object) -> None:
    assert gateway.system("POST", "scale-function/probe", json={"replicas": replicas}).status_code == 400


def test_unknown_function_is_404_everywhere(gateway: Any) -> None:
    assert gateway.system("GET", "function/nobody").status_code == 404
    assert gateway.system("POST", "scale-function/nobody", json={"replicas": 1}).status_code == 404
    assert gateway.system("GET", "logs?name=nobody").status_code == 404
    assert gateway.call("nobody").json()["error"] == "function_not_found"
    assert gateway.system("GET", "functions?namespace=other").status_code == 400


def test_redeploy_with_a_status_as_the_body_changes_only_what_was_changed(gateway: Any) -> None:
    gateway.system("POST", "functions", json={**PROBE, "service": "grown", "limits": {"memory": "100Mi"}})
    gateway.system("POST", "scale-function/grown", json={"replicas": 3})
    gateway.wait_available("grown", 3)
    status = gateway.status("grown")

    body = {**status, "service": status["name"], "limits": {"memory": "200Mi"}}
    assert gateway.system("PUT", "functions", json=body).status_code == 202

    gateway.wait_available("grown", 3)
    grown = gateway.status("grown")
    assert grown["limits"] == {"memory": "200Mi"}
    assert {**grown, "limits": None} == {**status, "limits": None}
    gateway.system("DELETE", "functions", json={"functionName": "grown"})


def test_deploy_what_a_process_cannot_honour_is_said(gateway: Any) -> None:
    body = {**PROBE, "service": "strict", "readOnlyRootFilesystem": True, "constraints": ["a=b"]}

    assert gateway.system("POST", "functions", json=body).status_code == 202

    annotations = gateway.status("strict")["annotations"]
    assert annotations["localfaas.not-honoured"] == "readOnlyRootFilesystem, constraints"
    assert "readOnlyRootFilesystem is not honoured" in gateway.errors
    gateway.system("DELETE", "functions", json={"functionName": "strict"})


def test_request_with_two_authorizations_is_401(gateway: Any) -> None:
    token = base64.b64encode(":".join(gateway.auth).encode())
    request = (
        b"GET /system/functions HTTP/1.1\r\nHost: x\r\nAuthorization: Basic %s\r\nAuthorization: x\r\n\r\n"
    )

    assert b" 401 " in send_raw(gateway.url, request % token)


def test_malformed_http_is_400_and_the_gateway_goes_on(gateway: Any) -> None:
    assert b" 400 " in send_raw(gateway.url, b"GET / HTTP/9.9\r\n\r\n")
    assert b" 400 " in send_raw(
        gateway.url, b"POST /function/probe HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
    )
    assert gateway.call("probe").status_code == 200


def test_replica_environment_is_that_of_a_container(gateway: Any) -> None:
    environment = gateway.call("probe", env=1).json()

    assert environment["OPENFAAS_NAME"] == "probe"
    assert environment["HOSTNAME"].startswith("probe-")
    assert environment["exec_timeout"] == "20s"
    assert "PYTEST_CURRENT_TEST" not in environment
    assert gateway.auth[1] not in json.dumps(environment)
