"""The `peerless` command. Results go to stdout, everything else to stderr; errors are one line and an exit code."""

from peer.cli.main import main

__all__ = ["main"]
