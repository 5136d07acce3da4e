"""Reading `stack.yml`, as faas-cli reads it.

Source: https://docs.openfaas.com/reference/yaml/. Paths in a stack file are relative to the file's own
    directory (faas-cli takes them relative to the working directory, which is the same where it is used as
    documented).
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from localfaas.errors import ConfigurationError

_DEFAULT_GATEWAY = "http://127.0.0.1:8080"
_SUBSTITUTION = re.compile(
    r"\$\$|\\(?P<escaped>[/\\])|\$\{(?P<name>\w+)(?:(?::[-=?+]|=)(?P<default>[^}$]*))?\}|(?P<other>\$\{[^}]*\}?)"
)

_WATCHDOG_VARIABLE = r"""^\s*ENV\s+(?:.*\s)?%s[=\s]\s*["']?(?P<value>[^\s"']+)"""


class _TextLoader(yaml.SafeLoader):
    """Reads every scalar as the text it is written as: Go puts `true` and `1e3` into a string unchanged."""


_TextLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag.endswith((":merge", ":null"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


@dataclass(frozen=True)
class Template:
    """A build template: a folder of files, and how its functions are started."""

    directory: Path
    fprocess: str
    handler_folder: str
    mode: str
    """Of the watchdog that its image has, by its Dockerfile; empty where it has none."""

    upstream_url: str
    """Where its server listens, by its Dockerfile; empty where that does not say."""

    preload: tuple[str, ...]
    """Modules that a warm parent imports before it forks; a key of ours, which faas-cli ignores."""


@dataclass(frozen=True)
class Function:
    """One function of a stack file."""

    name: str
    image: str
    language: str = ""
    handler: str = ""
    fprocess: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    limits: Mapping[str, str] = field(default_factory=dict)
    requests: Mapping[str, str] = field(default_factory=dict)
    constraints: tuple[str, ...] = ()
    secrets: tuple[str, ...] = ()
    namespace: str = ""
    is_read_only: bool = False
    is_build_skipped: bool = False
    build_args: Mapping[str, str] = field(default_factory=dict)
    """Of its Dockerfile; a function that runs as a process has no use for them."""

    def deployment(self) -> dict[str, Any]:
        """Return the JSON body that `faas-cli deploy` sends to `/system/functions` for this function."""
        body: dict[str, Any] = {
            "service": self.name,
            "image": self.image,
            "namespace": self.namespace,
            "envProcess": self.fprocess,
            "envVars": dict(self.environment),
            "constraints": list(self.constraints),
            "secrets": list(self.secrets),
            "labels": dict(self.labels),
            "annotations": dict(self.annotations),
            "limits": dict(self.limits),
            "requests": dict(self.requests),
            "readOnlyRootFilesystem": self.is_read_only,
        }
        always_sent = {"service", "image", "labels", "annotations"}
        return {key: value for key, value in body.items() if value or key in always_sent}


@dataclass(frozen=True)
class Stack:
    """A stack file, its environment substituted."""

    path: Path
    gateway: str
    functions: Mapping[str, Function]
    copy_paths: tuple[str, ...]

    @property
    def directory(self) -> Path:
        """The folder that every path of the file is relative to."""
        return self.path.parent

    def filtered(self, pattern: str) -> "Stack":
        """Return the stack with only the functions whose name matches a glob such as `gradient*`.

        Raises:
            ConfigurationError: none matches.
        """
        functions = {name: each for name, each in self.functions.items() if fnmatchcase(name, pattern)}
        if not functions:
            raise ConfigurationError(
                f"no function of {self.path} matches {pattern!r}; it has {', '.join(self.functions)}"
            )
        return replace(self, functions=functions)


def substitute_environment(text: str, environment: Mapping[str, str]) -> str:
    r"""Return `text` with `${NAME}` and `${NAME:-default}` replaced as faas-cli replaces them.

    An empty variable takes the default too; `$$` stands for `$`, `\/` and `\\` for `/` and `\`.

    Raises:
        ConfigurationError: another operator, or a default inside a default.
    """

    def value(match: re.Match[str]) -> str:
        if match["other"] is not None:
            raise ConfigurationError(
                f"cannot substitute {match['other']!r}; only ${{NAME}} and ${{NAME:-default}} are understood"
            )
        if match["name"] is None:
            return match["escaped"] or "$"
        return environment.get(match["name"], "") or match["default"] or ""

    return _SUBSTITUTION.sub(value, text)


def load_stack(path: Path, environment: Mapping[str, str] | None = None) -> Stack:
    """Return what a stack file says.

    Args:
        path: the file, `stack.yml` or `stack.yaml`.
        environment: what to substitute from; this process' own by default.

    Raises:
        ConfigurationError: it cannot be read, is no OpenFaaS stack, or a function lacks its image.
    """
    path = path.resolve()
    document = _read_yaml(path, os.environ if environment is None else environment)
    provider = _section(path, document, "provider")
    if provider.get("name") != "openfaas":
        raise ConfigurationError(
            f"{path}: provider.name is {provider.get('name')!r}; it has to be 'openfaas'"
        )
    functions = {
        name: _read_function(path, name, _section(path, document["functions"], name))
        for name in _section(path, document, "functions")
    }
    copy_paths = _section(path, document, "configuration").get("copy") or []
    return Stack(path, provider.get("gateway") or _DEFAULT_GATEWAY, functions, tuple(copy_paths))


def load_template(directory: Path, language: str) -> Template:
    """Return the template `language` of the folder `directory`/template.

    Raises:
        ConfigurationError: there is none, or its template.yml cannot be read.
    """
    folder = directory / "template" / language
    path = folder / "template.yml"
    if not path.is_file():
        raise ConfigurationError(
            f"template {language!r} not found: {path} does not exist; check `lang` in stack.yml"
        )
    document = _read_yaml(path, {}, is_substituted=False)
    dockerfile = _read_dockerfile(folder / "Dockerfile")
    return Template(
        directory=folder,
        fprocess=document.get("fprocess") or "",
        handler_folder=document.get("handler_folder") or "function",
        mode=_watchdog_mode(dockerfile),
        upstream_url=_image_variable(dockerfile, "upstream_url"),
        preload=tuple(document.get("preload") or ()),
    )


def _read_dockerfile(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _watchdog_mode(dockerfile: str) -> str:
    """Return what an image's `mode` is: set in its Dockerfile, else that of the watchdog it copies."""
    return _image_variable(dockerfile, "mode") or ("classic" if "classic-watchdog" in dockerfile else "")


def _image_variable(dockerfile: str, name: str) -> str:
    """Return what a Dockerfile's text sets a variable to, empty where it does not."""
    found = re.search(_WATCHDOG_VARIABLE % name, dockerfile, re.MULTILINE)
    return found["value"] if found else ""


def _read_yaml(path: Path, environment: Mapping[str, str], *, is_substituted: bool = True) -> dict[str, Any]:
    try:
        text = path.read_text()
        document = yaml.load(
            substitute_environment(text, environment) if is_substituted else text, _TextLoader
        )
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror or error}") from error
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path} is no YAML: {error}") from error
    if not isinstance(document, dict):
        raise ConfigurationError(f"{path} is empty, or not a mapping")
    return document


def _section(path: Path, document: Mapping[str, Any], key: str) -> dict[str, Any]:
    section = document.get(key) or {}
    if not isinstance(section, dict):
        raise ConfigurationError(f"{path}: {key} has to be a mapping")
    return section


def _texts(path: Path, fields: Mapping[str, Any], key: str) -> dict[str, str]:
    return {inner: value or "" for inner, value in _section(path, fields, key).items()}


def _read_function(path: Path, name: str, fields: Mapping[str, Any]) -> Function:
    language = (fields.get("lang") or "").replace("Dockerfile", "dockerfile")
    if not fields.get("image"):
        raise ConfigurationError(f"{path}: function {name} has no image")
    environment = _texts(path, fields, "environment")
    for extra in fields.get("environment_file") or []:
        environment |= _texts(path, _read_yaml(path.parent / extra, {}, is_substituted=False), "environment")
    fprocess = fields.get("fprocess") or ""
    if not fprocess and language not in ("", "dockerfile"):
        fprocess = load_template(path.parent, language).fprocess
    return Function(
        name=name,
        image=fields["image"],
        language=language,
        handler=fields.get("handler") or "",
        fprocess=fprocess,
        environment=environment,
        labels=_texts(path, fields, "labels"),
        annotations=_texts(path, fields, "annotations"),
        limits=_texts(path, fields, "limits"),
        requests=_texts(path, fields, "requests"),
        constraints=tuple(fields.get("constraints") or ()),
        secrets=tuple(fields.get("secrets") or ()),
        namespace=fields.get("namespace") or "",
        is_read_only=fields.get("readonly_root_filesystem") == "true",
        is_build_skipped=fields.get("skip_build") == "true",
        build_args=_texts(path, fields, "build_args"),
    )
