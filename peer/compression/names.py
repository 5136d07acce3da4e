"""The names of codecs, as options, configurations and headers have them; without torch."""

import math
from dataclasses import dataclass

from peer.errors import ConfigurationError

NONE = "none"
KNOWN = "none, fp16, bf16, int8, qsgd:BITS (2 to 8), topk:RATIO (above 0, at most 1) or sparseloco"

_WITHOUT_PARAMETER = (NONE, "fp16", "bf16", "int8", "sparseloco")

_DECAYS = {"topk": 1.0, "sparseloco": 0.95}


@dataclass(frozen=True)
class CodecName:
    """A codec and its parameter: `bits` of `qsgd`, `ratio` of `topk`, the fraction of elements kept."""

    family: str
    bits: int = 8
    ratio: float = 1.0

    def __str__(self) -> str:
        parameter = {"qsgd": f":{self.bits}", "topk": f":{self.ratio!r}"}
        return self.family + parameter.get(self.family, "")

    @property
    def has_memory(self) -> bool:
        """Whether what one round leaves out is added to the next: error feedback, which needs a place."""
        return self.family in _DECAYS

    @property
    def decay(self) -> float:
        """What part of what has been left out is added to the next gradient; 0 without a memory."""
        return _DECAYS.get(self.family, 0.0)


def parse(text: str) -> CodecName:
    """Return the codec of this name.

    Raises:
        ConfigurationError: there is none; the message has those that there are.
    """
    family, _, parameter = text.partition(":")
    if text in _WITHOUT_PARAMETER:
        return CodecName(text)
    if family == "qsgd" and parameter in {str(bits) for bits in range(2, 9)}:
        return CodecName(family, bits=int(parameter))
    if family == "topk" and _is_ratio(parameter):
        return CodecName(family, ratio=float(parameter))
    raise ConfigurationError(f"codec {text[:80]!r} is not known: it is {KNOWN}")


def parse_stateless(text: str) -> CodecName:
    """Return the codec of this name, for the results of functions, which keep nothing between requests.

    Raises:
        ConfigurationError: there is none, or it needs a place for what it leaves out.
    """
    name = parse(text)
    if name.has_memory:
        raise ConfigurationError(
            f"codec {name} adds what it leaves out to the next gradient, and functions keep nothing: "
            "take fp16, bf16, int8 or qsgd:BITS for their results"
        )
    return name


def _is_ratio(text: str) -> bool:
    try:
        ratio = float(text)
    except ValueError:
        return False
    return math.isfinite(ratio) and 0 < ratio <= 1
