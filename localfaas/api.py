"""The control part of the REST API, a Flask application.

Source: the OpenFaaS API, https://github.com/openfaas/faas/blob/master/api-docs/spec.openapi.yml. It runs in
threads, so whatever touches functions is handed to the event loop. Authentication has been done before.
"""

import asyncio
import json
import logging
import platform
import time
from collections.abc import Callable
from typing import Any, TypeVar

from flask import Flask, Response, jsonify, request
from werkzeug.exceptions import HTTPException

from localfaas import __version__
from localfaas.async_queue import AsyncQueue
from localfaas.deployments import NAMESPACE, parse_deployment
from localfaas.errors import BadRequest, LocalFaasError
from localfaas.gateway import Functions
from localfaas.metrics import METRICS_CONTENT_TYPE, MetricsPage
from localfaas.secret_store import check_secret_name, parse_secret
from localfaas.status import UsageMeter, function_status

_Result = TypeVar("_Result")

_log = logging.getLogger(__name__)

_MAX_BODY_BYTES = 4 << 20
_LOOP_PATIENCE_SECONDS = 30.0
# OpenFaaS clients want a commit; a release stands for one.
_SHA = f"v{__version__}"


def create_control_api(
    functions: Functions, queue: AsyncQueue, memory_description: str, loop: asyncio.AbstractEventLoop
) -> Flask:
    """Return the WSGI application of `/system/*`, `/healthz` and `/metrics`.

    Args:
        functions: what is deployed; used on `loop` only.
        queue: asynchronous calls; used on `loop` only.
        memory_description: what holds memory limits here, for `/system/info`.
        loop: the gateway's event loop, which runs.
    """
    app = Flask("localfaas", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = _MAX_BODY_BYTES
    views = _Views(functions, queue, memory_description, loop)
    app.add_url_rule("/healthz", view_func=views.health)
    app.add_url_rule("/metrics", view_func=views.metrics)
    app.add_url_rule("/system/info", view_func=views.info)
    app.add_url_rule("/system/namespaces", view_func=views.namespaces)
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
    app.register_error_handler(OSError, _refuse_storage)
    return app


class _Views:
    """What each route answers."""

    def __init__(
        self,
        functions: Functions,
        queue: AsyncQueue,
        memory_description: str,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._functions = functions
        self._memory_description = memory_description
        self._loop = loop
        self._usage = UsageMeter()
        self._metrics = MetricsPage(functions, queue)

    def health(self) -> Response:
        return _text("OK", 200)

    def metrics(self) -> Response:
        return Response(self._on_loop(self._metrics.render), content_type=METRICS_CONTENT_TYPE)

    def info(self) -> Response:
        version = {"release": __version__, "sha": _SHA}
        provider = {"provider": "localfaas", "orchestration": "process", "version": version}
        return jsonify(
            {
                "provider": provider,
                "version": version,
                "arch": platform.machine(),
                "memory": self._memory_description,
            }
        )

    def namespaces(self) -> Response:
        return jsonify([NAMESPACE])

    def list(self) -> Response:
        _check_namespace(request.args.get("namespace"))
        return jsonify(self._on_loop(lambda: [function_status(pool) for pool in self._functions.pools]))

    def deploy(self) -> Response:
        deployment = parse_deployment(_body())
        self._on_loop(lambda: self._functions.deploy(deployment))
        return _text("", 202)

    def update(self) -> Response:
        deployment = parse_deployment(_body())

        def replace_existing() -> None:
            self._functions.find(deployment.service)
            self._functions.deploy(deployment)

        self._on_loop(replace_existing)
        return _text("", 202)

    def remove(self) -> Response:
        body = _body()
        _check_namespace(body.get("namespace"))
        self._on_loop(lambda: self._functions.remove(str(body.get("functionName", ""))))
        return _text("", 202)

    def describe(self, name: str) -> Response:
        _check_namespace(request.args.get("namespace"))
        is_usage_asked = request.args.get("usage") in ("1", "true")

        def read() -> dict[str, Any]:
            pool = self._functions.find(name)
            usage = {"usage": self._usage.read(pool, time.monotonic())} if is_usage_asked else {}
            return {**function_status(pool), **usage}

        return jsonify(self._on_loop(read))

    def scale(self, name: str) -> Response:
        body = _body()
        _check_namespace(body.get("namespace"))
        replicas = body.get("replicas")
        if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 0:
            raise BadRequest(f"replicas is {replicas!r}; it has to be a whole number, 0 or more")
        self._on_loop(lambda: self._functions.scale(name, replicas))
        return _text("", 202)

    def list_secrets(self) -> Response:
        _check_namespace(request.args.get("namespace"))
        names = self._on_loop(self._functions.secrets.names)
        return jsonify([{"name": name, "namespace": NAMESPACE} for name in names])

    def create_secret(self) -> Response:
        name, value = parse_secret(_secret_body())
        self._on_loop(lambda: self._functions.secrets.create(name, value))
        return _text("", 201)

    def update_secret(self) -> Response:
        name, value = parse_secret(_secret_body())
        self._on_loop(lambda: self._functions.secrets.update(name, value))
        return _text("", 202)

    def remove_secret(self) -> Response:
        name = check_secret_name(_secret_body().get("name"))
        self._on_loop(lambda: self._functions.secrets.remove(name))
        return _text("", 202)

    def _on_loop(self, call: Callable[[], _Result]) -> _Result:
        async def run() -> _Result:
            return call()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(_LOOP_PATIENCE_SECONDS)


def _body() -> dict[str, Any]:
    try:
        body = json.loads(request.get_data())
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise BadRequest("the body has to be a JSON object")
    return body


def _secret_body() -> dict[str, Any]:
    body = _body()
    _check_namespace(body.get("namespace"))
    _check_namespace(request.args.get("namespace"))
    return body


def _check_namespace(namespace: object) -> None:
    if namespace not in (None, "", NAMESPACE):
        raise BadRequest(f"namespace {namespace!r} does not exist; there is {NAMESPACE} only")


def _text(text: str, status: int) -> Response:
    return Response(f"{text}\n" if text else "", status, content_type="text/plain; charset=utf-8")


def _refuse(error: LocalFaasError) -> Response:
    return _text(str(error), error.status)


def _refuse_http(error: HTTPException) -> Response:
    return _text(error.description or error.name, error.code or 500)


def _refuse_storage(error: OSError) -> Response:
    _log.error("the state directory cannot be written: %s", error)
    return _text(f"the state directory cannot be written: {error.strerror or error}", 500)
