"""Namespaces: functions and secrets of the same name, kept apart everywhere."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests

from localfaas.errors import BadRequest, ConfigurationError
from localfaas.namespaces import FunctionName, Namespace, NamespaceStore, parse_namespace

PROBE = {"service": "probe", "image": "test/probe:latest"}
WHO = """
import os
from pathlib import Path

def handle(event, context):
    print("called in", os.environ["OPENFAAS_NAMESPACE"])
    folder = Path(os.environ["secret_mount_path"])
    return {"body": {
        "namespace": os.environ["OPENFAAS_NAMESPACE"], "name": os.environ["OPENFAAS_NAME"],
        "replica": context.hostname, "token": (folder / "token").read_text(),
    }}
"""


@pytest.fixture
def two(make_gateway: Callable[..., Any], project: Any) -> Any:
    """A gateway with the function `who` and the secret `token` in the default namespace and in `dev`."""
    project.add("who", WHO, secrets=["token"])
    gateway = make_gateway()
    assert gateway.system("POST", "namespace/", json={"name": "dev"}).status_code == 201
    for namespace in ("openfaas-fn", "dev"):
        secret = {"name": "token", "namespace": namespace, "value": f"of-{namespace}"}
        assert gateway.system("POST", "secrets", json=secret).status_code == 201
    gateway.deploy()
    project.functions["who"]["namespace"] = "dev"
    project.write()
    gateway.deploy()
    return gateway


@pytest.mark.parametrize(
    ("text", "namespace", "key", "qualified"),
    [
        ("fn", "", "fn", "fn.openfaas-fn"),
        ("fn.openfaas-fn", "", "fn", "fn.openfaas-fn"),
        ("fn.openfaas-fn", "openfaas-fn", "fn", "fn.openfaas-fn"),
        ("fn.dev", "", "fn.dev", "fn.dev"),
        ("fn", "dev", "fn.dev", "fn.dev"),
    ],
)
def test_function_name_parsed_has_key_and_qualified_name(
    text: str, namespace: str, key: str, qualified: str
) -> None:
    function = FunctionName.parse(text, namespace)

    assert (function.key, function.qualified) == (key, qualified)
    assert FunctionName.parse(function.key) == function == FunctionName.parse(function.qualified)


def test_function_name_with_two_namespaces_is_refused() -> None:
    with pytest.raises(BadRequest, match=r"'fn\.dev' is not in namespace 'prod'"):
        FunctionName.parse("fn.dev", "prod")


@pytest.mark.parametrize("name", ["", "A", "a.b", "a/b", "../x", "a\n", "a" * 64, "-a", 3, None, ["a"]])
def test_parse_namespace_hostile_name_is_refused(name: object) -> None:
    with pytest.raises(BadRequest):
        parse_namespace({"name": name})


def test_store_with_a_damaged_file_names_it(tmp_path: Path) -> None:
    (tmp_path / "dev.json").write_text('{"nam')

    with pytest.raises(ConfigurationError, match=r"dev\.json is damaged"):
        NamespaceStore(tmp_path)


def test_store_saved_namespace_is_loaded(tmp_path: Path) -> None:
    namespace = Namespace("dev", {"team": "a"}, {"note": "é"})
    NamespaceStore(tmp_path).create(namespace)

    again = NamespaceStore(tmp_path)

    assert again.find("dev") == namespace
    assert again.names == ["dev", "openfaas-fn"]


def test_life_of_a_namespace_has_the_codes_that_the_client_expects(gateway: Any) -> None:
    body = {"name": "life", "labels": {"team": "a", "openfaas": "1"}, "annotations": {"openfaas": "1"}}

    assert gateway.system("PUT", "namespace/life", json=body).status_code == 404
    assert gateway.system("POST", "namespace/", json=body).status_code == 201
    assert gateway.system("POST", "namespace/", json=body).status_code == 409
    assert gateway.system("GET", "namespaces").json() == ["life", "openfaas-fn"]
    assert gateway.system("GET", "namespace/life").json() == body
    changed = {**body, "labels": {"team": "b"}}
    assert gateway.system("PUT", "namespace/life", json=changed).status_code == 202
    assert gateway.system("GET", "namespace/life").json()["labels"] == {"team": "b", "openfaas": "1"}
    assert gateway.system("DELETE", "namespace/life", json=body).status_code == 202
    assert gateway.system("DELETE", "namespace/life", json=body).status_code == 404
    assert gateway.system("GET", "namespace/life").status_code == 404
    assert gateway.system("GET", "namespaces").json() == ["openfaas-fn"]


def test_default_namespace_is_marked_and_stays(gateway: Any) -> None:
    described = gateway.system("GET", "namespace/openfaas-fn").json()
    reply = gateway.system("DELETE", "namespace/openfaas-fn")

    assert described["labels"] == {"openfaas": "1"}
    assert reply.status_code == 409
    assert gateway.system("GET", "namespaces").json() == ["openfaas-fn"]


def test_unknown_namespace_is_refused_everywhere(gateway: Any) -> None:
    body = {**PROBE, "namespace": "nowhere"}
    refusals = [
        gateway.system("POST", "functions", json=body),
        gateway.system("PUT", "functions", json=body),
        gateway.system("DELETE", "functions", json={"functionName": "probe", "namespace": "nowhere"}),
        gateway.system("GET", "functions?namespace=nowhere"),
        gateway.system("GET", "function/probe?namespace=nowhere"),
        gateway.system("POST", "scale-function/probe", json={"replicas": 1, "namespace": "nowhere"}),
        gateway.system("GET", "secrets?namespace=nowhere"),
        gateway.system("POST", "secrets", json={"name": "x", "value": "x", "namespace": "nowhere"}),
        gateway.system("DELETE", "secrets", json={"name": "x", "namespace": "nowhere"}),
    ]

    assert [reply.status_code for reply in refusals] == [400] * len(refusals)
    assert all("namespace 'nowhere' does not exist" in reply.text for reply in refusals)
    assert gateway.system("GET", "logs?name=probe&namespace=nowhere").status_code == 404
    assert gateway.call("probe.nowhere").status_code == 404
    assert requests.post(f"{gateway.url}/async-function/probe.nowhere", timeout=10).status_code == 404


def test_one_name_in_two_namespaces_is_two_functions(two: Any, until: Callable[..., Any]) -> None:
    for namespace, path in (("openfaas-fn", "who"), ("dev", "who.dev")):
        told = two.call(path).json()

        assert (told["namespace"], told["name"], told["token"]) == (namespace, "who", f"of-{namespace}")
        (listed,) = two.system("GET", f"functions?namespace={namespace}").json()
        assert (listed["name"], listed["namespace"], listed["invocationCount"]) == ("who", namespace, 1)
        lines = two.system("GET", f"logs?name=who&namespace={namespace}").text.splitlines()
        messages = [json.loads(line) for line in lines]
        assert {message["namespace"] for message in messages} == {namespace}
        assert f"called in {namespace}" in [message["text"] for message in messages]
        assert two.metric("gateway_function_invocation_total", function_name=f"who.{namespace}") == 1
    assert requests.post(f"{two.url}/async-function/who.dev", timeout=10).status_code == 202
    until(lambda: two.metric("gateway_function_invocation_total", function_name="who.dev") == 2, "called")
    assert two.metric("gateway_function_invocation_total", function_name="who.openfaas-fn") == 1


def test_scale_and_remove_touch_one_namespace_only(two: Any) -> None:
    two.system("POST", "scale-function/who", json={"replicas": 3, "namespace": "dev"})

    assert two.system("GET", "function/who?namespace=dev").json()["replicas"] == 3
    assert two.status("who")["replicas"] == 1
    assert two.system("DELETE", "namespace/dev").status_code == 409
    body = {"functionName": "who", "namespace": "dev"}
    assert two.system("DELETE", "functions", json=body).status_code == 202
    reply = two.system("DELETE", "namespace/dev")
    assert (reply.status_code, "token" in reply.text) == (409, True)
    two.system("DELETE", "secrets", json={"name": "token", "namespace": "dev"})
    assert two.system("DELETE", "namespace/dev").status_code == 202
    assert two.call("who").json()["token"] == "of-openfaas-fn"


def test_namespaces_survive_a_kill(two: Any, until: Callable[..., Any]) -> None:
    two.system("PUT", "namespace/dev", json={"name": "dev", "labels": {"team": "a"}})
    two.kill()

    two.start()

    assert two.system("GET", "namespaces").json() == ["dev", "openfaas-fn"]
    assert two.system("GET", "namespace/dev").json()["labels"]["team"] == "a"
    assert two.call("who.dev").json()["token"] == "of-dev"
    assert two.call("who").json()["token"] == "of-openfaas-fn"


def test_state_directory_of_a_release_without_namespaces_is_read(two: Any) -> None:
    two.call("who")
    two.stop()
    path = two.state_dir / "functions" / "who.json"
    record = json.loads(path.read_text())
    del record["deployment"]["namespace"]
    path.write_text(json.dumps(record))
    # A namespace whose own file is gone is still there: its functions are.
    (two.state_dir / "namespaces" / "dev.json").unlink()

    two.start()

    assert two.call("who").json()["namespace"] == "openfaas-fn"
    assert two.call("who.dev").json()["namespace"] == "dev"
    assert two.system("GET", "namespaces").json() == ["dev", "openfaas-fn"]
