"""The control part of the REST API, a Flask application.

Source: the OpenFaaS API, https://github.com/openfaas/faas/blob/master/api-docs/spec.openapi.yml. It runs in
threads, so whatever touches functions is handed to the event loop. Authentication has been done before.
"""

import asyncio
import json
import logging
import platform
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException, RequestEntityTooLarge

from localfaas import __version__
from localfaas.admission import read_machine
from localfaas.async_queue import AsyncQueue
from localfaas.deployments import parse_deployment
from localfaas.errors import BadRequest, LocalFaasError
from localfaas.gateway import Functions
from localfaas.metrics import METRICS_CONTENT_TYPE, MetricsPage
from localfaas.namespaces import parse_namespace
from localfaas.pool import Pool
from localfaas.secret_store import check_secret_name, parse_secret
from localfaas.status import UsageMeter, function_status
from localfaas.storage import storage_error

_Result = TypeVar("_Result")

_log = logging.getLogger(__name__)

_MAX_BODY_BYTES = 4 << 20
_LOOP_PATIENCE_SECONDS = 30.0
# OpenFaaS clients want a commit; a release stands for one.
_SHA = f"v{__version__}"


def create_control_api(functions: Functions, queue: AsyncQueue, loop: asyncio.AbstractEventLoop) -> Flask:
    """Return the WSGI application of `/system/*`, `/healthz` and `/metrics`.

    Args:
        functions: what is deployed; used on `loop` only.
        queue: asynchronous calls; used on `loop` only.
        loop: the gateway's event loop, which runs.
    """
    app = _Application("localfaas", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = _MAX_BODY_BYTES
    views = _Views(functions, queue, loop)
    app.add_url_rule("/healthz", view_func=views.health)
    app.add_url_rule("/metrics", view_func=views.metrics)
    app.add_url_rule("/system/info", view_func=views.info)
    app.add_url_rule("/system/namespaces", view_func=views.list_namespaces)
    # The client creates at the path without a name.
    app.add_url_rule("/system/namespace/", view_func=views.create_namespace, methods=["POST"])
    app.add_url_rule("/system/namespace/<name>", view_func=views.create_namespace, methods=["POST"])
    app.add_url_rule("/system/namespace/<name>", view_func=views.describe_namespace, methods=["GET"])
    app.add_url_rule("/system/namespace/<name>", view_func=views.update_namespace, methods=["PUT"])
    app.add_url_rule("/system/namespace/<name>", view_func=views.remove_namespace, methods=["DELETE"])
    app.add_url_rule("/system/functions", view_func=views.list, methods=["GET"])
    app.add_url_rule("/system/functions", view_func=views.deploy, methods=["POST"])
    app.add_url_rule("/system/functions", view_func=views.update, methods=["PUT"])
    app.add_url_rule("/system/functions", view_func=views.remove, methods=["DELETE"])
    app.add_url_rule("/system/function/<name>", view_func=views.describe)
    app.add_url_rule("/system/scale-function/<name>", view_func=views.scale, methods=["POST"])
    app.add_url_rule("/system/secrets", view_func=views.list_secrets, methods=["GET"])
    app.add_url_rule("/system/secrets", view_func=views.create_secret, methods=["POST"])
    app.add_url_rule("/system/secrets", view_func=views.update_secret, methods=["PUT"])
    app.add_url_rule("/system/secrets", view_func=views.remove_secret, methods=["DELETE"])
    app.register_error_handler(LocalFaasError, _refuse)
    app.register_error_handler(HTTPException, _refuse_http)
    app.register_error_handler(OSError, lambda error: _refuse_storage(error, functions.state_dir))
    return app


class _Application(Flask):
    """A Flask application behind a server that ends every body itself.

    OpenFaaS' gateway sends its provider each body in chunks, without a length.
    """

    def wsgi_app(self, environ: dict[str, Any], start_response: Any) -> Any:
        environ["wsgi.input_terminated"] = True
        return super().wsgi_app(environ, start_response)


class _Views:
    """What each route answers."""

    def __init__(
        self,
        functions: Functions,
        queue: AsyncQueue,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._functions = functions
        self._loop = loop
        self._usage = UsageMeter()
        self._metrics = MetricsPage(functions, queue)

    def health(self) -> Response:
        return _text("OK", 200)

    def metrics(self) -> Response:
        return Response(self._on_loop(self._metrics.render), content_type=METRICS_CONTENT_TYPE)

    def info(self) -> Response:
        version = {"release": __version__, "sha": _SHA}
        provider = {
            "provider": "localfaas",
            "orchestration": self._functions.runtime.name,
            "version": version,
        }
        if self._functions.is_behind_gateway:
            # The gateway in front nests it in its own.
            return jsonify(provider)
        machine = read_machine()
        return jsonify(
            {
                "provider": provider,
                "version": version,
                "arch": platform.machine(),
                "memory": self._functions.runtime.memory_description,
                "machine": {"cores": machine.cores, "available_bytes": machine.available_bytes},
            }
        )

    def list_namespaces(self) -> Response:
        return jsonify(self._on_loop(lambda: self._functions.namespaces.names))

    def create_namespace(self, name: str = "") -> Response:
        namespace = parse_namespace(_body(), name)
        self._on_loop(lambda: self._functions.namespaces.create(namespace))
        return _text("", 201)

    def describe_namespace(self, name: str) -> Response:
        return jsonify(self._on_loop(lambda: self._functions.namespaces.find(name)).to_json())

    def update_namespace(self, name: str) -> Response:
        namespace = parse_namespace(_body(), name)
        self._on_loop(lambda: self._functions.namespaces.update(namespace))
        return _text("", 202)

    def remove_namespace(self, name: str) -> Response:
        self._on_loop(lambda: self._functions.remove_namespace(name))
        return _text("", 202)

    def list(self) -> Response:
        asked = request.args.get("namespace")

        def read() -> list[dict[str, Any]]:
            namespace = self._functions.namespaces.check(asked)
            pools = [pool for pool in self._functions.pools if pool.function.namespace == namespace]
            return [function_status(pool) for pool in pools]

        return jsonify(self._on_loop(read))

    def deploy(self) -> Response:
        deployment = parse_deployment(_body())
        self._await_on_loop(self._functions.deploy(deployment))
        return _text("", 202)

    def update(self) -> Response:
        deployment = parse_deployment(_body())

        async def replace_existing() -> None:
            self._functions.namespaces.check(deployment.namespace)
            self._functions.find(deployment.service, deployment.namespace)
            await self._functions.deploy(deployment)

        self._await_on_loop(replace_existing())
        return _text("", 202)

    def remove(self) -> Response:
        body = _body()
        namespace, name = _namespace_of(body), body.get("functionName")
        if not isinstance(name, str):
            raise BadRequest("functionName is missing; it says which function to remove")
        self._on_loop(lambda: self._functions.remove(self._find(name, namespace)))
        return _text("", 202)

    def describe(self, name: str) -> Response:
        namespace = request.args.get("namespace", "")
        is_usage_asked = request.args.get("usage") in ("1", "true")

        def read() -> dict[str, Any]:
            pool = self._find(name, namespace)
            usage = {"usage": self._usage.read(pool, time.monotonic())} if is_usage_asked else {}
            return {**function_status(pool), **usage}

        return jsonify(self._on_loop(read))

    def scale(self, name: str) -> Response:
        body = _body()
        namespace = _namespace_of(body)
        replicas = body.get("replicas")
        if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 0:
            raise BadRequest(f"replicas is {replicas!r}; it has to be a whole number, 0 or more")
        self._on_loop(lambda: self._functions.scale(self._find(name, namespace), replicas))
        return _text("", 202)

    def list_secrets(self) -> Response:
        asked = request.args.get("namespace")

        def read() -> list[dict[str, str]]:
            namespace = self._functions.namespaces.check(asked)
            names = self._functions.secrets.names(namespace)
            return [{"name": name, "namespace": namespace} for name in names]

        return jsonify(self._on_loop(read))

    def create_secret(self) -> Response:
        body = _body()
        name, value = parse_secret(body)
        self._with_secrets(body, lambda namespace: self._functions.secrets.create(name, value, namespace))
        return _text("", 201)

    def update_secret(self) -> Response:
        body = _body()
        name, value = parse_secret(body)
        self._with_secrets(body, lambda namespace: self._functions.secrets.update(name, value, namespace))
        return _text("", 202)

    def remove_secret(self) -> Response:
        body = _body()
        name = check_secret_name(body.get("name"))
        self._with_secrets(body, lambda namespace: self._functions.secrets.remove(name, namespace))
        return _text("", 202)

    def _with_secrets(self, body: dict[str, Any], change: Callable[[str], None]) -> None:
        """Make a change in the namespace that the request names, which exists."""
        asked = _namespace_of(body)
        self._on_loop(lambda: change(self._functions.namespaces.check(asked)))

    def _find(self, name: str, namespace: str) -> Pool:
        """Return a function's pool; on the loop only."""
        self._functions.namespaces.check(namespace)
        return self._functions.find(name, namespace)

    def _on_loop(self, call: Callable[[], _Result]) -> _Result:
        async def run() -> _Result:
            return call()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(_LOOP_PATIENCE_SECONDS)

    def _await_on_loop(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()


def _body() -> dict[str, Any]:
    data = request.get_data()
    if request.content_length is None and len(data) >= _MAX_BODY_BYTES:
        # Of a body without a length no more is read, and nothing said.
        raise RequestEntityTooLarge
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise BadRequest("the body has to be a JSON object")
    return body


def _namespace_of(body: dict[str, Any]) -> str:
    """Return the namespace that body or query name, unchecked; empty where neither does."""
    found = body.get("namespace")
    if not isinstance(found, str | None):
        raise BadRequest("namespace has to be a string")
    return found or request.args.get("namespace", "")


def _text(text: str, status: int) -> Response:
    return Response(f"{text}\n" if text else "", status, content_type="text/plain; charset=utf-8")


def _refuse(error: LocalFaasError) -> Response:
    return _text(str(error), error.status)


def _refuse_http(error: HTTPException) -> Response:
    reply = _text(error.description or error.name, error.code or 500)
    # Such as Allow, of a verb that is not served.
    reply.headers.extend((name, value) for name, value in error.get_headers() if name != "Content-Type")
    return reply


def _refuse_storage(error: OSError, state_dir: Path) -> Response:
    refusal = storage_error(error, state_dir)
    _log.error("%s", refusal)
    return _refuse(refusal)
