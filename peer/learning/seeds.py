"""Seeds and random streams that are the same on every machine, Python and numpy version."""

import hashlib

import numpy as np


def derive_seed(*parts: int | str) -> int:
    """Return a seed in [0, 2**63) that depends on every part and on their order.

    The first 63 bits of the SHA-256 of the parts' text, so neighbouring parts give unrelated seeds.
    """
    digest = hashlib.sha256("/".join(str(part) for part in parts).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def random_stream(*parts: int | str) -> np.random.RandomState:
    """Return a generator seeded by `derive_seed`.

    `RandomState`, because numpy keeps its streams unchanged for good (NEP 19), unlike `Generator`'s: peers
    with different numpy versions must draw the same permutation.
    """
    seed = derive_seed(*parts)
    return np.random.RandomState(np.array([seed & 0xFFFFFFFF, seed >> 32], dtype=np.uint32))
