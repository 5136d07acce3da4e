"""Which samples each peer owns, and its endless stream of batches: pure functions of the plan's numbers.

A shard is made of blocks of neighbouring samples in a stored order. An epoch takes the blocks in an order
shuffled by (seed, epoch, peer), so any number of peers and any batch size read the same stored parts.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np

from peer.errors import ConfigurationError
from peer.learning.datasets.manifest import BY_LABEL, SHUFFLED, TRAIN, DatasetManifest
from peer.learning.seeds import random_stream

Range = tuple[int, int]
PartRange = tuple[int, int, int]

IID_BLOCK = 64
# the stored order is by label, so batches mix labels only as finely as blocks are small
DIRICHLET_BLOCK = 8
_DIRICHLET_DRAWS = 20


@dataclass(frozen=True)
class Shard:
    """One peer's part of a dataset.

    Attributes:
        peer: its rank.
        seed: the run's; orders the blocks of each epoch.
        order: the stored order that sample numbers count in.
        samples_per_part: of that stored order.
        blocks: disjoint (start, stop) ranges of samples, each at least one long.
    """

    peer: int
    seed: int
    order: str
    samples_per_part: int
    blocks: tuple[Range, ...]

    @property
    def num_samples(self) -> int:
        """The samples of the shard, and of each of its epochs."""
        return sum(stop - start for start, stop in self.blocks)

    def num_batches(self, batch_size: int) -> int:
        """Return the batches of one epoch; the last may be smaller than the others."""
        return -(-self.num_samples // _checked_size(batch_size))

    def batch(self, index: int, batch_size: int) -> tuple[int, list[Range]]:
        """Return the epoch and the sample ranges, in order, of one batch of this peer's stream.

        Args:
            index: counts batches from the start of the run, over all epochs.
            batch_size: samples, >= 1.
        """
        epoch, position = divmod(index, self.num_batches(batch_size))
        order = random_stream("epoch", self.seed, epoch, self.peer).permutation(len(self.blocks))
        blocks = [self.blocks[block] for block in order]
        return epoch, _cut(blocks, position * batch_size, (position + 1) * batch_size)


def plan_shards(manifest: DatasetManifest, num_peers: int, partition: str, seed: int) -> list[Shard]:
    """Return a shard a peer; together they hold every training sample exactly once.

    Args:
        manifest: of a stored dataset.
        num_peers: P >= 1.
        partition: `iid` (equal slices of the shuffled order, within one sample) or `dirichlet:ALPHA` (each
            class is shared out by proportions drawn from Dirichlet(ALPHA), as in arXiv 1909.06335; the
            smaller ALPHA is, the fewer classes a peer sees).
        seed: of the draw, and of each epoch's order.

    Raises:
        ConfigurationError: an unknown partition, or one that leaves a peer without a sample.
    """
    num_samples = manifest.splits[TRAIN].num_samples
    if not 1 <= num_peers <= num_samples:
        raise ConfigurationError(
            f"{num_peers} peers cannot share the {num_samples} training samples of {manifest.id}: "
            "each needs at least one"
        )
    if partition == "iid":
        order, block = SHUFFLED, IID_BLOCK
        slices = [[split_range(num_samples, num_peers, peer)] for peer in range(num_peers)]
    else:
        order, block = BY_LABEL, DIRICHLET_BLOCK
        slices = _dirichlet(manifest, num_peers, _alpha(partition), seed)
    samples_per_part = manifest.splits[TRAIN].orders[order].samples_per_part
    return [
        Shard(peer, seed, order, samples_per_part, tuple(_blocks(ranges, block)))
        for peer, ranges in enumerate(slices)
    ]


def split_range(num_samples: int, num_peers: int, peer: int) -> Range:
    """Return this peer's equal share, within one sample, of a split: what it evaluates. It may be empty."""
    return peer * num_samples // num_peers, (peer + 1) * num_samples // num_peers


def cut_range(samples: Range, batch_size: int) -> list[list[Range]]:
    """Return a range of samples as batches of at most `batch_size`, each a list of one range."""
    start, stop = samples
    step = _checked_size(batch_size)
    return [[(first, min(first + step, stop))] for first in range(start, stop, step)]


def locate(
    batches: Sequence[Sequence[Range]], samples_per_part: int
) -> tuple[list[int], list[list[PartRange]]]:
    """Return the stored parts that these batches need, ascending, and their ranges within these.

    A range `(i, start, stop)` is samples start to stop of the i-th part in the returned list; a sample range
    that spans parts becomes several.
    """
    split = [
        [piece for start, stop in batch for piece in _in_parts(start, stop, samples_per_part)]
        for batch in batches
    ]
    parts = sorted({part for batch in split for part, _, _ in batch})
    position = {part: index for index, part in enumerate(parts)}
    return parts, [[(position[part], start, stop) for part, start, stop in batch] for batch in split]


def _in_parts(start: int, stop: int, samples_per_part: int) -> list[PartRange]:
    pieces = []
    while start < stop:
        part, offset = divmod(start, samples_per_part)
        length = min(stop - start, samples_per_part - offset)
        pieces.append((part, offset, offset + length))
        start += length
    return pieces


def _blocks(ranges: Sequence[Range], size: int) -> list[Range]:
    return [piece for samples in ranges for (piece,) in cut_range(samples, size)]


def _cut(blocks: Sequence[Range], first: int, last: int) -> list[Range]:
    """Return elements first to last of the blocks laid end to end; blocks that touch become one range."""
    ends = list(accumulate(stop - start for start, stop in blocks))
    ranges: list[Range] = []
    for block in range(bisect_right(ends, first), len(blocks)):
        start, stop = blocks[block]
        begin = ends[block] - (stop - start)
        if begin >= last:
            break
        piece = (start + max(0, first - begin), min(stop, start + last - begin))
        if ranges and ranges[-1][1] == piece[0]:
            piece = (ranges.pop()[0], piece[1])
        ranges.append(piece)
    return ranges


def _dirichlet(manifest: DatasetManifest, num_peers: int, alpha: float, seed: int) -> list[list[Range]]:
    counts = manifest.splits[TRAIN].label_counts
    for attempt in range(_DIRICHLET_DRAWS):
        random = random_stream("dirichlet", seed, attempt)
        slices: list[list[Range]] = [[] for _ in range(num_peers)]
        start = 0
        for count in counts:
            # tiny alphas underflow to 0/0: such a draw gives everything to the last peer, and is drawn again
            shares = np.nan_to_num(random.dirichlet([alpha] * num_peers), posinf=0.0)
            bounds = (shares.cumsum() * count).round().astype(int).tolist()
            edges = [0, *bounds[:-1], count]
            for peer, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
                if low < high:
                    slices[peer].append((start + low, start + high))
            start += count
        if all(slices):
            return slices
    raise ConfigurationError(
        f"dirichlet:{alpha:g} leaves one of {num_peers} peers without a sample in each of {_DIRICHLET_DRAWS} "
        "draws: take a larger alpha, fewer peers or another seed"
    )


def _alpha(partition: str) -> float:
    name, _, value = partition.partition(":")
    try:
        alpha = float(value)
    except ValueError:
        alpha = 0.0
    if name != "dirichlet" or not 0 < alpha <= 1e6:
        raise ConfigurationError(
            f"unknown partition {partition[:80]!r}: take iid, or dirichlet:ALPHA as in dirichlet:0.5"
        )
    return alpha


def _checked_size(batch_size: int) -> int:
    if batch_size < 1:
        raise ConfigurationError(f"batch size is {batch_size}: take at least 1")
    return batch_size
