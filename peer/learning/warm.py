"""What a warm parent imports, so that a forked replica begins with everything it needs.

The one module that does something at import: it fixes torch to one thread before anything else can use two.
No tensor operation runs here.
"""

import msgspec
import numpy
import torch
import xxhash

from peer.learning.threads import use_one_thread

use_one_thread()

import peer.learning.serving  # noqa: E402  after the thread count is fixed

__all__ = ["msgspec", "numpy", "peer", "torch", "xxhash"]
