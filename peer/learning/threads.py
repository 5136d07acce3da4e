"""One thread for torch: the rule that makes every gradient and every step the same bits everywhere."""

import torch


def use_one_thread() -> None:
    """From now on this process computes with one thread.

    Two threads cut sums elsewhere and change every gradient. Call it before the first tensor operation: a
    process that ever ran two OpenMP threads cannot be forked safely.
    """
    # Also where it is 1 already: the first call after a fork renews torch's pool of threads, and two threads
    # whose first tensor operation does so at once fail ("Invalid thread pool").
    torch.set_num_threads(1)
