"""`docs/openapi.yml` says what the gateway does."""

import re
from pathlib import Path
from typing import Any, cast

import pytest
import requests
import yaml

from localfaas.api import create_control_api

DOCUMENT = yaml.safe_load((Path(__file__).parents[2] / "docs" / "openapi.yml").read_text())
# Served on the event loop, not by the routes of the control API.
ON_THE_LOOP = {
    ("/system/logs", "get"),
    ("/async-function/{name}", "post"),
    *(("/function/{name}", verb) for verb in ("get", "post", "put", "patch", "delete")),
}
TYPES = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}
OPERATIONS = [(path, verb) for path, verbs in DOCUMENT["paths"].items() for verb in verbs]
PROBE = {"service": "documented", "image": "test/probe:latest"}
SECRET = {"name": "documented", "value": "x"}
NAMESPACE = {"name": "documented", "labels": {"team": "a"}}
# Every operation, with requests that are answered well and badly, in an order that makes sense.
CALLS: list[tuple[str, str, dict[str, Any]]] = [
    ("/healthz", "get", {}),
    ("/metrics", "get", {}),
    ("/system/info", "get", {}),
    ("/system/namespaces", "get", {}),
    *(
        ("/system/namespace/{name}", verb, {"json": NAMESPACE})
        for verb in ("put", "post", "post", "put", "get")
    ),
    ("/system/namespace/{name}", "post", {"json": {"name": "other"}}),
    *(("/system/namespace/{name}", "delete", {}) for _ in range(2)),
    *(("/system/namespace/", "post", {"json": NAMESPACE}) for _ in range(2)),
    ("/system/namespace/{name}", "delete", {}),
    ("/system/namespace/{name}", "get", {}),
    ("/system/functions", "post", {"json": PROBE}),
    ("/system/functions", "post", {"json": {}}),
    ("/system/functions", "post", {"data": b" " * (5 << 20)}),
    ("/system/functions", "put", {"json": PROBE}),
    ("/system/functions", "put", {"json": {**PROBE, "service": "nobody"}}),
    ("/system/functions", "get", {}),
    ("/system/functions", "get", {"params": {"namespace": "other"}}),
    ("/system/function/{name}", "get", {"params": {"usage": "1"}}),
    ("/system/function/{name}", "get", {"name": "nobody"}),
    ("/system/scale-function/{name}", "post", {"json": {"replicas": 1}}),
    ("/system/scale-function/{name}", "post", {"json": {"replicas": -1}}),
    ("/system/logs", "get", {"params": {"name": "documented"}}),
    ("/system/logs", "get", {"params": {"name": "nobody"}}),
    ("/system/logs", "get", {"params": {"name": "documented", "tail": "x"}}),
    ("/system/secrets", "put", {"json": SECRET}),
    ("/system/secrets", "post", {"json": SECRET}),
    ("/system/secrets", "post", {"json": SECRET}),
    ("/system/secrets", "put", {"json": SECRET}),
    ("/system/secrets", "get", {}),
    ("/system/secrets", "delete", {"json": {"name": "documented"}}),
    *(("/function/{name}", verb, {}) for verb in ("get", "post", "put", "patch", "delete")),
    ("/function/{name}", "post", {"name": "nobody"}),
    ("/async-function/{name}", "post", {}),
    ("/async-function/{name}", "post", {"name": "nobody"}),
    ("/async-function/{name}", "post", {"headers": {"X-Callback-Url": "nowhere"}}),
    ("/system/functions", "delete", {"json": {"functionName": "documented"}}),
    ("/system/functions", "delete", {"json": {"functionName": "documented"}}),
]


def resolve(node: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in node:
        found: Any = DOCUMENT
        for key in node["$ref"].removeprefix("#/").split("/"):
            found = found[key]
        node = found
    return node


def check(value: object, schema: dict[str, Any], where: str) -> None:
    """Fail unless `value` has the schema's types, its required properties, and no others than documented."""
    schema = resolve(schema)
    assert isinstance(value, TYPES[schema["type"]]), where
    for item in cast("list[object]", value) if schema["type"] == "array" else []:
        check(item, schema["items"], f"{where}[]")
    if isinstance(value, dict) and "properties" in schema:
        assert set(schema.get("required", [])) <= set(value), where
        assert set(value) <= set(schema["properties"]), where
        for name, item in value.items():
            check(item, schema["properties"][name], f"{where}.{name}")


def test_every_route_is_documented_and_nothing_else() -> None:
    app = create_control_api(cast(Any, None), cast(Any, None), cast(Any, None))
    served = {
        (re.sub(r"<(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
        if method not in ("HEAD", "OPTIONS")
    }

    assert set(OPERATIONS) == served | ON_THE_LOOP


def test_every_operation_is_tried() -> None:
    assert {(path, verb) for path, verb, _ in CALLS} == set(OPERATIONS)


def test_answers_are_those_that_are_documented(gateway: Any) -> None:
    for path, verb, given in CALLS:
        options = {"name": "documented", **given}
        url = gateway.url + path.replace("{name}", options.pop("name"))
        operation = DOCUMENT["paths"][path][verb]

        reply = requests.request(
            verb, url, timeout=30, auth=None if operation.get("security") == [] else gateway.auth, **options
        )

        where = f"{verb} {path} {reply.status_code}"
        documented = operation["responses"]
        assert str(reply.status_code) in documented or "default" in documented, where
        response = resolve(documented.get(str(reply.status_code)) or documented["default"])
        content = response.get("content", {})
        if content:
            assert reply.headers["Content-Type"].split(";")[0] in content, where
        if "application/json" in content:
            check(reply.json(), content["application/json"]["schema"], where)


@pytest.mark.parametrize(("path", "verb"), [each for each in OPERATIONS if each[0].startswith("/system")])
def test_system_operations_are_documented_to_ask_for_the_password(gateway: Any, path: str, verb: str) -> None:
    reply = requests.request(verb, gateway.url + path.replace("{name}", "probe"), timeout=30)

    assert reply.status_code == 401
    assert "security" not in DOCUMENT["paths"][path][verb]
