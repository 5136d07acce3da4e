"""Functions of a stack file made into images, as `faas-cli build` makes them."""

from collections.abc import Callable, Mapping

from localfaas.build import lay_out_context
from localfaas.config import StatePaths
from localfaas.errors import ConfigurationError
from localfaas.runtimes.docker.engine import Engine, EngineRefused
from localfaas.stack import Function, Stack


def build_image(
    stack: Stack,
    function: Function,
    paths: StatePaths,
    build_args: Mapping[str, str],
    say: Callable[[str], None],
) -> None:
    """Leave the image of a function on this machine.

    Args:
        stack: the file that it is in.
        function: what to build.
        paths: where the folder that the image is built from is laid out.
        build_args: for the Dockerfile, above those of the stack file.
        say: takes what Docker says meanwhile.

    Raises:
        ConfigurationError: there is nothing to build, a step fails, or no daemon answers; the message has the
            last lines. An older image of that name stays.
        RuntimeUnavailable: the daemon stopped to answer.
    """
    context = lay_out_context(stack, function, paths)
    engine = Engine()
    try:
        engine.build_image(str(context), function.image, {**function.build_args, **build_args}, say)
    except EngineRefused as error:
        raise ConfigurationError(
            f"image {function.image} of function {function.name} cannot be built from {context}: {error}"
        ) from error
    finally:
        engine.close()
