"""`localfaas build`: the folder that an image is built from, or that serves in its place.

The layout is that of `faas-cli build --shrinkwrap`: the template's files, the handler's folder over the
template's `function/`, and the folders of `configuration.copy` inside that.
"""

import shlex
import shutil
from pathlib import Path

from localfaas.config import StatePaths
from localfaas.deployments import check_function_name
from localfaas.errors import BadRequest, ConfigurationError
from localfaas.images import ImageEntry, save_image
from localfaas.namespaces import DEFAULT_NAMESPACE, FunctionName, is_dns_label
from localfaas.stack import Function, Stack, Template, load_template
from localfaas.watchdog_options import MODES

# Folders that faas-cli leaves out of a handler.
_NEVER_COPIED = ("build", "template")


def build_function(stack: Stack, function: Function, paths: StatePaths) -> ImageEntry:
    """Return the image map's entry for `function`, whose folder is complete and whose entry is saved.

    Replicas that run from an earlier build keep their old files until they end; a deployment starts new ones.

    Raises:
        ConfigurationError: handler, template or a copied folder is missing, or outside the stack file's
            folder.
    """
    _check_names(function)
    if function.language in ("", "dockerfile"):
        raise ConfigurationError(
            f"function {function.name} has no template (lang: {function.language or 'none'}), and processes "
            "run templates with an `fprocess`; a Dockerfile is built by `localfaas build --runtime docker`"
        )
    template = load_template(stack.directory, function.language)
    command = tuple(shlex.split(function.fprocess or template.fprocess))
    if not command:
        raise ConfigurationError(f"template {function.language!r} has no `fprocess` in its template.yml")
    if template.mode not in ("", *MODES):
        raise ConfigurationError(
            f"template {function.language!r} has a watchdog in mode {template.mode!r}; localfaas serves "
            "http, streaming, serializing and classic"
        )
    directory = _lay_out_anew(stack, function, template, paths)
    variables = {"mode": template.mode, "upstream_url": template.upstream_url}
    environment = {name: value for name, value in variables.items() if value}
    entry = ImageEntry(function.image, str(directory), command, environment, template.preload)
    save_image(paths.images, entry)
    return entry


def lay_out_context(stack: Stack, function: Function, paths: StatePaths) -> Path:
    """Return the folder that a function's image is built from: laid out, or its handler's with a Dockerfile.

    Raises:
        ConfigurationError: as `build_function`, or there is no Dockerfile.
    """
    _check_names(function)
    if not function.language:
        raise ConfigurationError(
            f"function {function.name} has no `lang` to build it by; add `skip_build: true` if its image is "
            "built elsewhere"
        )
    if function.language == "dockerfile":
        directory = _handler_folder(stack, function).resolve()
    else:
        template = load_template(stack.directory, function.language)
        directory = _lay_out_anew(stack, function, template, paths)
    if not (directory / "Dockerfile").is_file():
        raise ConfigurationError(
            f"function {function.name} cannot be an image: {directory} has no Dockerfile"
        )
    return directory


def _check_names(function: Function) -> None:
    try:
        check_function_name(function.name)
    except BadRequest as error:
        raise ConfigurationError(str(error)) from error
    if function.namespace and not is_dns_label(function.namespace):
        raise ConfigurationError(f"function {function.name}: namespace {function.namespace!r} cannot be one")


def _lay_out_anew(stack: Stack, function: Function, template: Template, paths: StatePaths) -> Path:
    """Replace a function's folder by a fresh one; on an error the old one is as it was."""
    folder = FunctionName(function.name, function.namespace or DEFAULT_NAMESPACE).key
    directory = paths.build.resolve() / folder
    fresh, old = directory.with_name(f".{folder}.new"), directory.with_name(f".{folder}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        _lay_out(stack, function, template, fresh)
        if directory.exists():
            directory.rename(old)
        fresh.rename(directory)
    except OSError as error:
        raise ConfigurationError(f"cannot build {function.name} in {directory}: {error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)
    return directory


def _handler_folder(stack: Stack, function: Function) -> Path:
    handler = stack.directory / function.handler
    if not function.handler or not handler.is_dir():
        raise ConfigurationError(
            f"handler of {function.name} is no folder: {handler}; check `handler` in {stack.path}"
        )
    return handler


def _lay_out(stack: Stack, function: Function, template: Template, into: Path) -> None:
    handler = _handler_folder(stack, function)
    target = into / template.handler_folder
    target.mkdir(parents=True, mode=0o700)
    _copy(template.directory, into)
    for child in handler.iterdir():
        if child.name not in _NEVER_COPIED:
            _copy(child, target / child.name)
    root = stack.directory.resolve()
    for extra in stack.copy_paths:
        source = (root / extra).resolve()
        if source == root or not source.is_relative_to(root):
            raise ConfigurationError(f"configuration.copy {extra!r} is not inside {root}")
        _copy(source, target / extra)


def _copy(source: Path, target: Path) -> None:
    """Copy a file or a folder over what is there; links become what they point at, caches stay behind."""
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
