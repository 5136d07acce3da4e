"""The gateway: every function's pool, and the ASGI application in front of them.

Invocations and log streams are served here, on the event loop; the rest of the REST API is the Flask
application of `localfaas.api`, in threads.
"""

import asyncio
import logging
import re
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from urllib.parse import parse_qs

from localfaas.answers import answer_error, answer_text
from localfaas.auth import Credentials
from localfaas.config import GatewayConfig, StatePaths
from localfaas.deployments import Deployment, DeploymentRecord, DeploymentStore
from localfaas.errors import FunctionNotFound, LocalFaasError, NamespaceInUse, NotAccepting
from localfaas.invocation import AsgiApp, Invocation, Receive, Scope, Send
from localfaas.logs import FunctionLog, LogLine
from localfaas.namespaces import FunctionName, Namespace, NamespaceStore
from localfaas.pool import Pool
from localfaas.runtimes.interface import Runtime
from localfaas.secret_store import SecretStore

_log = logging.getLogger(__name__)

_FUNCTION_PATH = re.compile(rb"/(?:async-)?function/([^/]+)(/.*)?")
# Everything else asks for the password: `/%73ystem/functions` is `/system/functions` to Flask.
_OPEN_PATHS = (b"/healthz", b"/metrics")
# A follower of a log is let go after this, as in OpenFaaS.
_MAX_FOLLOW_SECONDS = 1_800.0


class Functions:
    """The deployed functions; what they are survives a restart. Lives on the event loop."""

    def __init__(self, config: GatewayConfig, runtime: Runtime) -> None:
        self.runtime = runtime
        self._config = config
        self._paths = StatePaths(config.state_dir)
        self._store = DeploymentStore(self._paths.functions)
        self.namespaces = NamespaceStore(self._paths.namespaces)
        self.secrets = SecretStore(self._paths)
        self._pools: dict[str, Pool] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self.is_behind_gateway = config.is_behind_gateway
        self.is_stopping = False

    @property
    def pools(self) -> list[Pool]:
        """Every function's pool, by name."""
        return [self._pools[name] for name in sorted(self._pools)]

    @property
    def state_dir(self) -> Path:
        """Where everything is written down."""
        return self._paths.root

    async def restore(self) -> None:
        """Start every function that an earlier gateway on this state directory had."""
        for record in self._store.load():
            name = record.deployment.function.key
            if record.deployment.namespace not in self.namespaces.names:
                _log.warning("namespace %s is missing and made anew", record.deployment.namespace)
                self.namespaces.create(Namespace(record.deployment.namespace))
            try:
                launcher = await self.runtime.prepare(record.deployment)
            except LocalFaasError as error:
                _log.error("function %s is not restored: %s", name, error)
            else:
                log = self._open_log(record)
                adopted = await launcher.adopt(log)
                self._pools[name] = Pool(record, launcher, log, self._config, self.secrets, adopted)
        self.secrets.withdraw_others(pool.function for pool in self.pools)
        await self.runtime.sweep()

    def find(self, name: str, namespace: str = "") -> Pool:
        """Return the pool of a function.

        Args:
            name: with or without its namespace, as `name.namespace`.
            namespace: of a name without one; empty for the default.

        Raises:
            FunctionNotFound: nothing of that name is deployed.
            BadRequest: name and namespace disagree.
        """
        function = FunctionName.parse(name, namespace)
        pool = self._pools.get(function.key)
        if pool is None:
            raise FunctionNotFound(
                f"function {function.service!r:.100} is not deployed in namespace {function.namespace!r:.100}"
            )
        return pool

    async def deploy(self, deployment: Deployment) -> None:
        """Make `deployment` what runs under its name, new or instead of an older one.

        Raises:
            BadRequest: its image is unknown, or a namespace or secret that it names is not there.
            NotAccepting: the gateway is stopping.
            OSError: it cannot be written down; nothing has changed.
        """
        self._check_names(deployment)
        launcher = await self.runtime.prepare(deployment)
        if self.is_stopping:
            raise NotAccepting("the gateway is shutting down")
        # A second time, since finding an image may take long.
        self._check_names(deployment)
        key = deployment.function.key
        pool = self._pools.get(key)
        record = pool.record.updated(deployment) if pool else DeploymentRecord.fresh(deployment)
        self._store.save(record)
        for name in launcher.not_honoured:
            _log.warning("function %s: %s is not honoured by the %s runtime", key, name, self.runtime.name)
        if pool is None:
            log = self._open_log(record)
            self._pools[key] = Pool(record, launcher, log, self._config, self.secrets)
        else:
            pool.update(record, launcher)

    def scale(self, pool: Pool, replicas: int) -> None:
        """Make `replicas` the number to keep, at most the function's maximum; an operator asks for it.

        Raises:
            OSError: it cannot be written down; nothing has changed.
        """
        wanted = min(replicas, pool.record.deployment.max_replicas)
        record = replace(pool.record, replicas=wanted, floor=wanted)
        self._store.save(record)
        pool.record = replace(pool.record, floor=wanted)
        pool.scale(replicas)

    def autoscale(self, pool: Pool, replicas: int) -> None:
        """Make `replicas` the number to keep until the load, or an operator, asks for another.

        Raises:
            OSError: it cannot be written down; it holds until the gateway ends.
        """
        pool.scale(replicas)
        self._store.save(pool.record)

    def remove(self, pool: Pool) -> None:
        """Forget a function; its running requests have the grace period to end."""
        self._store.remove(pool.function)
        del self._pools[pool.name]
        self._close_later(pool)
        pool.log.remove()

    def remove_namespace(self, name: str) -> None:
        """Forget a namespace without functions and secrets.

        Raises:
            NamespaceNotFound: there is none of that name.
            NamespaceInUse: it has some, or is the default one; nothing of it is removed.
        """
        self.namespaces.find(name)
        functions = [pool.function.service for pool in self.pools if pool.function.namespace == name]
        if functions:
            raise NamespaceInUse(f"namespace {name} has functions; remove them first: {', '.join(functions)}")
        if secrets := self.secrets.names(name):
            raise NamespaceInUse(f"namespace {name} has secrets; remove them first: {', '.join(secrets)}")
        self.namespaces.remove(name)

    def stop_accepting(self) -> None:
        """Refuse every request from now on, those that wait included."""
        self.is_stopping = True
        for pool in self._pools.values():
            pool.refuse()

    async def close(self) -> None:
        """Leave no replica; running requests have the grace period to end."""
        self.stop_accepting()
        for pool in self._pools.values():
            self._close_later(pool)
        if self._closing:
            await asyncio.wait(self._closing)
        for pool in self._pools.values():
            pool.log.close()
        await self.runtime.close()

    def _check_names(self, deployment: Deployment) -> None:
        self.namespaces.check(deployment.namespace)
        self.secrets.check(deployment.secrets, deployment.namespace)

    def _open_log(self, record: DeploymentRecord) -> FunctionLog:
        function = record.deployment.function
        return FunctionLog(function, self._paths.logs / f"{function.key}.log")

    async def _close(self, pool: Pool) -> None:
        await pool.close(self._config.grace_seconds)
        # One of the same name may have been deployed meanwhile.
        if self._pools.get(pool.name) in (None, pool):
            self.secrets.withdraw(pool.function)

    def _close_later(self, pool: Pool) -> None:
        task = asyncio.get_running_loop().create_task(self._close(pool))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def split_function_path(path: bytes, scope: Scope) -> tuple[str, bytes]:
    """Return the name in `/function/<name>/…`, and what follows it, with the query."""
    match = _FUNCTION_PATH.fullmatch(path)
    name = match[1].decode("ascii", errors="replace") if match else ""
    rest = (match[2] if match else None) or b"/"
    return name, rest + b"?" + scope["query_string"] if scope["query_string"] else rest


class Gateway:
    """The ASGI application."""

    def __init__(
        self,
        functions: Functions,
        credentials: Credentials,
        control: AsgiApp,
        later: AsgiApp,
        config: GatewayConfig,
    ) -> None:
        """Put functions behind HTTP.

        Args:
            functions: what is deployed.
            credentials: what everything but invocations, `/healthz` and `/metrics` asks for.
            control: serves the rest of the REST API.
            later: serves `/async-function/*`.
            config: the gateway's.
        """
        self._functions = functions
        self._credentials = credentials
        self._control = control
        self._later = later
        self._config = config

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; see https://asgi.readthedocs.io."""
        if scope["type"] != "http":
            # Web sockets are refused by an end without an answer.
            return
        path: bytes = scope.get("raw_path") or scope["path"].encode()
        if path.startswith(b"/function/"):
            await self._invoke(path, scope, receive, send)
        elif path.startswith(b"/async-function/"):
            await self._later(scope, receive, send)
        elif path not in _OPEN_PATHS and not self._is_authorized(scope):
            headers = [(b"www-authenticate", b'Basic realm="Restricted"')]
            await answer_text(
                send, 401, "unauthorized: use the user and password of the state directory", headers
            )
        elif path == b"/system/logs":
            if scope["method"] == "GET":
                await self._stream_logs(scope, receive, send)
            else:
                await answer_text(send, 405, "logs can only be read, by GET", [(b"allow", b"GET")])
        else:
            await self._control(scope, receive, send)

    def _is_authorized(self, scope: Scope) -> bool:
        values = [value for name, value in scope["headers"] if name == b"authorization"]
        return len(values) == 1 and self._credentials.accepts(values[0].decode("latin-1"))

    async def _invoke(self, path: bytes, scope: Scope, receive: Receive, send: Send) -> None:
        name, rest = split_function_path(path, scope)
        try:
            if self._functions.is_stopping:
                raise NotAccepting("the gateway is shutting down")
            pool = self._functions.find(name)
        except LocalFaasError as error:
            await answer_error(send, error)
            return
        limits = pool.record.deployment.watchdog.time_limits(self._config.default_timeout_seconds)
        await Invocation(pool, rest, scope, receive, send, limits).run()

    async def _stream_logs(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve `/system/logs`: NDJSON, one message a line; see the OpenFaaS API."""
        query = {
            name: values[-1] for name, values in parse_qs(scope["query_string"].decode("latin-1")).items()
        }
        try:
            log = self._functions.find(query.get("name", ""), query.get("namespace", "")).log
            since = datetime.fromisoformat(query["since"]) if "since" in query else None
            if since is not None and since.tzinfo is None:
                raise ValueError("since has no time zone")
            tail = int(query.get("tail", "0"))
        except LocalFaasError as error:
            await answer_text(send, error.status, str(error))
            return
        except ValueError as error:
            await answer_text(
                send, 400, f"{error}; `tail` is a whole number, `since` is like 2026-01-31T12:00:00Z"
            )
            return
        instance = query.get("instance", "")
        is_followed = query.get("follow", "").lower() in ("1", "t", "true")
        headers = [(b"content-type", b"application/x-ndjson")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        kept = "".join(line.to_json() for line in log.lines(since=since, tail=tail, instance=instance))
        # Nothing runs between these two, so no line is missed or sent twice.
        following = log.follow(instance) if is_followed else None
        await send({"type": "http.response.body", "body": kept.encode(), "more_body": True})
        if following is not None:
            await self._follow(following, receive, send)
        await send({"type": "http.response.body"})

    async def _follow(self, lines: AsyncGenerator[LogLine, None], receive: Receive, send: Send) -> None:
        async def pass_on() -> None:
            async with aclosing(lines):
                async for line in lines:
                    await send(
                        {"type": "http.response.body", "body": line.to_json().encode(), "more_body": True}
                    )

        async def wait_disconnect() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        tasks = {asyncio.ensure_future(pass_on()), asyncio.ensure_future(wait_disconnect())}
        await asyncio.wait(tasks, timeout=_MAX_FOLLOW_SECONDS, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
