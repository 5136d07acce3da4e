"""Randomness for stochastic rounding, the same for an element wherever its gradient is cut."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_ELEMENTS_A_WORD = 4
_ELEMENTS_A_STEP = 16
"""Philox 4x64 makes four words of 64 bits a step of its counter, and an element takes 16 bits."""


class Noise:
    """A stream of 16 bits an element, that depends on the seed and on the element's number alone.

    Philox (Salmon et al., SC 2011) is a function of a key and a counter; numpy keeps its stream unchanged for
    good (NEP 19).

    Args:
        seed: not negative, below 2**128.
        first_element: the number of the first element that is taken; a multiple of 16.
    """

    def __init__(self, seed: int, first_element: int = 0) -> None:
        self._seed = seed
        self._first_element = first_element
        self._generator: np.random.Philox | None = None

    def take(self, num_elements: int) -> Tensor:
        """Return the noise of the next elements, int16 of shape (N,), every value as likely as any other.

        Args:
            num_elements: a multiple of 16, but for the last call.
        """
        if self._generator is None:
            self._generator = np.random.Philox(
                key=self._seed, counter=self._first_element // _ELEMENTS_A_STEP
            )
        words: NDArray[np.uint64] = self._generator.random_raw(-(-num_elements // _ELEMENTS_A_WORD))
        return torch.from_numpy(words.view(np.int16))[:num_elements]
