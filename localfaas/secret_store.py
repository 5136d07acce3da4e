"""Secrets: files in the state directory, copied for the functions that name them.

No value leaves this module but into such a file: none is in an answer, a log line, a command line or an
environment.
"""

import base64
import binascii
import re
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from localfaas.config import StatePaths, make_private_directory, remove_half_written, write_atomically
from localfaas.errors import BadRequest, SecretExists, SecretNotFound, StartFailed
from localfaas.namespaces import DEFAULT_NAMESPACE, FunctionName

_LABEL = r"[a-z0-9](?:[-a-z0-9]*[a-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_MAX_NAME_CHARACTERS = 253
_MAX_VALUE_BYTES = 1 << 20


def check_secret_name(name: object) -> str:
    """Return `name` if it can name a secret: a DNS subdomain, as in OpenFaaS.

    Raises:
        BadRequest: it cannot.
    """
    if not isinstance(name, str) or len(name) > _MAX_NAME_CHARACTERS or not _NAME.fullmatch(name):
        raise BadRequest(
            f"secret name {name!r:.100} has to be up to {_MAX_NAME_CHARACTERS} of a-z, 0-9, - and ., with a "
            "letter or digit at either end"
        )
    return name


def parse_secret(body: Mapping[str, Any]) -> tuple[str, bytes]:
    """Return name and value of the secret that a POST or PUT to `/system/secrets` carries.

    `rawValue`, in base64, goes before `value`, a string: clients that have bytes send both.

    Raises:
        BadRequest: a field is missing or of the wrong type, or the value is above 1 MiB; never shows it.
    """
    name = check_secret_name(body.get("name"))
    text, raw = body.get("value") or "", body.get("rawValue") or ""
    if not isinstance(text, str) or not isinstance(raw, str):
        raise BadRequest("value and rawValue have to be strings, rawValue in base64")
    try:
        value = base64.b64decode(raw, validate=True) if raw else text.encode()
    except (binascii.Error, ValueError) as error:
        raise BadRequest("rawValue has to be base64, value has to be Unicode") from error
    if not value:
        raise BadRequest(f"secret {name} has no value; send `value`, or `rawValue` in base64")
    if len(value) > _MAX_VALUE_BYTES:
        raise BadRequest(f"secret {name} is above {_MAX_VALUE_BYTES} bytes")
    return name, value


class SecretStore:
    """The secrets of one state directory, and the folders in which functions find theirs."""

    def __init__(self, paths: StatePaths) -> None:
        """Take over a state directory that has been created; what a kill left half-written is removed."""
        self._root = paths.secrets
        self._mounts = paths.mounts
        for namespace in self._root.iterdir():
            remove_half_written(namespace)

    def names(self, namespace: str = DEFAULT_NAMESPACE) -> list[str]:
        """Return the name of every secret of a namespace, sorted."""
        try:
            paths = list((self._root / namespace).iterdir())
        except FileNotFoundError:
            return []
        return sorted(path.name for path in paths if _NAME.fullmatch(path.name))

    def check(self, names: Iterable[str], namespace: str) -> None:
        """Return if there is a secret of every name in that namespace.

        Raises:
            BadRequest: there is not.
        """
        for name in names:
            if not self._path(check_secret_name(name), namespace).exists():
                command = f"faas-cli secret create {name}{_option(namespace)}"
                raise BadRequest(f"{_not_there(name, namespace)}; create it by `{command}`")

    def create(self, name: str, value: bytes, namespace: str = DEFAULT_NAMESPACE) -> None:
        """Leave a new secret in the store; its namespace exists.

        Raises:
            SecretExists: there is one of that name.
            OSError: it cannot be written; nothing has changed.
        """
        path = self._path(name, namespace)
        if path.exists():
            raise SecretExists(f"secret {name} exists already; update it, or remove it first")
        make_private_directory(path.parent)
        write_atomically(path, value)

    def update(self, name: str, value: bytes, namespace: str = DEFAULT_NAMESPACE) -> None:
        """Give a secret another value, which every replica sees that starts from now on.

        Raises:
            SecretNotFound: there is none of that name.
            OSError: it cannot be written; nothing has changed.
        """
        path = self._path(name, namespace)
        if not path.exists():
            raise SecretNotFound(_not_there(name, namespace))
        write_atomically(path, value)

    def remove(self, name: str, namespace: str = DEFAULT_NAMESPACE) -> None:
        """Forget a secret; replicas that run keep it, and no other starts for a function that names it.

        Raises:
            SecretNotFound: there is none of that name.
        """
        try:
            self._path(name, namespace).unlink()
        except FileNotFoundError as error:
            raise SecretNotFound(_not_there(name, namespace)) from error

    def provide(self, function: FunctionName, names: tuple[str, ...]) -> str | None:
        """Return a private folder that holds the secrets of `names` as they are now, or None for no names.

        It is the function's, and the same for all its replicas.

        Raises:
            StartFailed: one has been removed, or the folder cannot be written.
        """
        if not names:
            return None
        folder = self._mounts / function.key
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            for name in names:
                _copy_if_changed(self._path(name, function.namespace), folder / name)
            for path in folder.iterdir():
                if path.name not in names:
                    path.unlink()
        except FileNotFoundError as error:
            raise StartFailed(f"secret {Path(str(error.filename)).name!r} was removed") from error
        except OSError as error:
            raise StartFailed(f"its secrets cannot be written: {error.strerror}") from error
        return str(folder.resolve())

    def withdraw(self, function: FunctionName) -> None:
        """Leave no copy of a secret for a function without replicas."""
        shutil.rmtree(self._mounts / function.key, ignore_errors=True)

    def withdraw_others(self, functions: Iterable[FunctionName]) -> None:
        """Leave copies of secrets for `functions` only; their replicas may run already, and use them."""
        keys = {function.key for function in functions}
        for folder in self._mounts.iterdir():
            if folder.name not in keys:
                shutil.rmtree(folder, ignore_errors=True)

    def _path(self, name: str, namespace: str) -> Path:
        return self._root / namespace / name


def _not_there(name: str, namespace: str) -> str:
    return f"secret {name} does not exist in namespace {namespace}"


def _option(namespace: str) -> str:
    return "" if namespace == DEFAULT_NAMESPACE else f" --namespace {namespace}"


def _copy_if_changed(source: Path, target: Path) -> None:
    value = source.read_bytes()
    with suppress(FileNotFoundError):
        if target.read_bytes() == value:
            return
    write_atomically(target, value)
