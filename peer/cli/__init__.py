"""The `peerless` command: results on stdout, all else on stderr, errors as one line and an exit code."""

from peer.cli.main import main

__all__ = ["main"]
