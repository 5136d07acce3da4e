"""The runtime that the gateway was told to use."""

import logging

from localfaas.config import GatewayConfig, StatePaths
from localfaas.cpu import choose_cpu_controller
from localfaas.group_record import GroupRecord
from localfaas.memory import choose_memory_controller
from localfaas.process_limit import choose_process_limiter
from localfaas.runtimes.interface import Runtime
from localfaas.runtimes.process import Controllers, ProcessRuntime

_log = logging.getLogger(__name__)


def create_runtime(config: GatewayConfig, paths: StatePaths) -> Runtime:
    """Return the runtime of a gateway about to start; what an earlier one left behind is gone.

    To be called before there is an event loop.

    Raises:
        ConfigurationError: it cannot be used here.
        RuntimeUnavailable: the Docker daemon stopped to answer.
    """
    record = GroupRecord(paths)
    leftovers = record.sweep()
    if config.runtime == "docker":
        # Here, since it takes a third of a second that the other runtime has no use for.
        from localfaas.runtimes.docker import connect_docker

        docker = connect_docker(paths.identity, config.pull_policy)
        _log.info("%s", docker.memory_description)
        return docker
    memory = choose_memory_controller(config.memory_enforcement, paths.identity)
    _log.info("%s", memory.description)
    if leftovers := leftovers + memory.sweep():
        _log.info("removed %d control groups of an earlier gateway", leftovers)
    cpu = choose_cpu_controller(memory, paths.identity)
    if cpu is not None:
        _log.info("%s", cpu.description)
        cpu.sweep()
    limiter = choose_process_limiter(memory, paths.identity)
    if limiter is not None:
        _log.info("%s", limiter.description)
        limiter.sweep()
    others = [each for each in (cpu, limiter) if each is not None]
    record.note([*memory.directories, *(place for each in others for place in each.directories)])
    return ProcessRuntime(paths.images, paths.create_socket_directory(), Controllers(memory, cpu, limiter))
