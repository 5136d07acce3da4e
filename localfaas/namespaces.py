"""Namespaces, and the names of functions inside them.

Source: `/system/namespaces` and `/system/namespace/{name}` of the OpenFaaS API, as faas-cli uses them. A
namespace keeps functions and secrets of the same name apart; it is no wall between them.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from localfaas.config import remove_half_written, write_atomically
from localfaas.errors import (
    BadRequest,
    ConfigurationError,
    NamespaceExists,
    NamespaceInUse,
    NamespaceNotFound,
)

DEFAULT_NAMESPACE = "openfaas-fn"
# What OpenFaaS marks its namespaces with, as a label and as an annotation.
_MARK = {"openfaas": "1"}
_LABEL = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")


def is_dns_label(name: object) -> TypeGuard[str]:
    """Tell whether `name` is 1 to 63 of a-z, 0-9 and -, with no - at either end (RFC 1123)."""
    return isinstance(name, str) and _LABEL.fullmatch(name) is not None


@dataclass(frozen=True, order=True)
class FunctionName:
    """A function's name and its namespace; the two together name one function."""

    service: str
    namespace: str = DEFAULT_NAMESPACE

    @property
    def key(self) -> str:
        """The name in files, logs and messages: `name.namespace`, and just `name` in the default one."""
        return self.service if self.namespace == DEFAULT_NAMESPACE else self.qualified

    @property
    def qualified(self) -> str:
        """The name in metrics: always `name.namespace`."""
        return f"{self.service}.{self.namespace}"

    @classmethod
    def parse(cls, text: str, namespace: str = "") -> "FunctionName":
        """Return what `name` or `name.namespace` names; neither part is checked.

        Args:
            text: as in a path. A function's own name has no dot, so the first one ends it.
            namespace: where a name without one belongs; empty for the default.

        Raises:
            BadRequest: both say a namespace, and not the same.
        """
        service, dot, own = text.partition(".")
        if dot and namespace and own != namespace:
            raise BadRequest(f"function {text!r:.100} is not in namespace {namespace!r}; say one of them")
        return cls(service, own if dot else namespace or DEFAULT_NAMESPACE)


@dataclass(frozen=True)
class Namespace:
    """A namespace with what its owner says of it; marked as OpenFaaS' own always."""

    name: str
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return OpenFaaS' FunctionNamespace."""
        return {
            "name": self.name,
            "labels": {**self.labels, **_MARK},
            "annotations": {**self.annotations, **_MARK},
        }


def parse_namespace(body: Mapping[str, Any], name: str = "") -> Namespace:
    """Return the namespace that a POST or PUT to `/system/namespace/{name}` asks for.

    Args:
        body: its JSON; `name` may be left out where the path has it.
        name: of the path, or empty.

    Raises:
        BadRequest: a field is of the wrong type, the name is impossible, or path and body disagree.
    """
    asked = body.get("name", name)
    if not is_dns_label(asked):
        raise BadRequest(
            f"namespace name {asked!r:.100} has to be 1 to 63 of a-z, 0-9 and -, with no - at either end"
        )
    if name and asked != name:
        raise BadRequest(f"the path says namespace {name!r:.100}, the body {asked!r:.100}")
    return Namespace(asked, _texts(body, "labels"), _texts(body, "annotations"))


def _texts(body: Mapping[str, Any], key: str) -> dict[str, str]:
    values = body.get(key)
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
        raise BadRequest(f"{key} has to be an object whose values are strings")
    return {name: value for name, value in values.items() if name not in _MARK}


class NamespaceStore:
    """The namespaces of one state directory: one JSON file each; the default one needs none."""

    def __init__(self, directory: Path) -> None:
        """Take over a directory that has been created; what a kill left half-written is removed.

        Raises:
            ConfigurationError: a file is not what `save` has written.
        """
        self._directory = directory
        remove_half_written(directory)
        self._namespaces = {DEFAULT_NAMESPACE: Namespace(DEFAULT_NAMESPACE)}
        for path in sorted(directory.glob("*.json")):
            try:
                namespace = Namespace(**json.loads(path.read_text()))
            except (ValueError, TypeError) as error:
                raise ConfigurationError(
                    f"{path} is damaged; remove it and create its namespace again"
                ) from error
            self._namespaces[namespace.name] = namespace

    @property
    def names(self) -> list[str]:
        """Every namespace's name, sorted."""
        return sorted(self._namespaces)

    def find(self, name: str) -> Namespace:
        """Return a namespace.

        Raises:
            NamespaceNotFound: there is none of that name.
        """
        if name not in self._namespaces:
            raise NamespaceNotFound(
                f"namespace {name!r:.100} does not exist; there is {', '.join(self.names)}"
            )
        return self._namespaces[name]

    def check(self, name: object) -> str:
        """Return the namespace that a request names, the default one where it names none.

        Raises:
            BadRequest: there is none of that name; 400, as OpenFaaS' providers answer.
        """
        if name in (None, ""):
            return DEFAULT_NAMESPACE
        if not isinstance(name, str) or name not in self._namespaces:
            raise BadRequest(
                f"namespace {name!r:.100} does not exist; create it by `faas-cli namespace create`, or use "
                f"one of {', '.join(self.names)}"
            )
        return name

    def create(self, namespace: Namespace) -> None:
        """Add a namespace.

        Raises:
            NamespaceExists: there is one of that name; it is as it was.
            OSError: it cannot be written down; nothing has changed.
        """
        if namespace.name in self._namespaces:
            raise NamespaceExists(f"namespace {namespace.name} exists already")
        self._save(namespace)

    def update(self, namespace: Namespace) -> None:
        """Replace a namespace's labels and annotations.

        Raises:
            NamespaceNotFound: there is none of that name.
            OSError: they cannot be written down; nothing has changed.
        """
        self.find(namespace.name)
        self._save(namespace)

    def remove(self, name: str) -> None:
        """Forget a namespace, which has to be empty.

        Raises:
            NamespaceNotFound: there is none of that name.
            NamespaceInUse: it is the default one.
        """
        self.find(name)
        if name == DEFAULT_NAMESPACE:
            raise NamespaceInUse(f"{name} is the default namespace, and stays")
        (self._directory / f"{name}.json").unlink(missing_ok=True)
        del self._namespaces[name]

    def _save(self, namespace: Namespace) -> None:
        write_atomically(
            self._directory / f"{namespace.name}.json", json.dumps(asdict(namespace), indent=2) + "\n"
        )
        self._namespaces[namespace.name] = namespace
