"""The facts about a machine without which a measurement says little."""

from peer.experiments.host import host_facts

__all__ = ["host_facts"]
