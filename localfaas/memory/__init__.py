"""Memory limits of replicas, and what they use.

Three mechanisms, one interface: cgroup v1 or v2 where a group can be made, else RLIMIT_DATA and a watchdog.
"""

from localfaas.memory.choose import choose_memory_controller
from localfaas.memory.interface import (
    PRESSURE_SOURCE,
    MemoryController,
    MemoryGroup,
    MemoryPressure,
    MemoryUsage,
)

__all__ = [
    "PRESSURE_SOURCE",
    "MemoryController",
    "MemoryGroup",
    "MemoryPressure",
    "MemoryUsage",
    "choose_memory_controller",
]
