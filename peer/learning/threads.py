"""One thread for torch: the rule that makes every gradient and every step the same bits everywhere."""

import torch


def use_one_thread() -> None:
    """From now on this process computes with one thread.

    Two threads cut sums elsewhere and change every gradient. Call it before the first tensor operation: a
    process that ever ran two OpenMP threads cannot be forked safely.
    """
    if torch.get_num_threads() != 1:
        torch.set_num_threads(1)
