"""`python -m peer` is `peerless`."""

from peer.cli import main

main()
