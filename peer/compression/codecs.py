"""A codec by its name."""

from peer.compression.casts import BFloat16, Float16, Uncompressed
from peer.compression.interface import Codec
from peer.compression.names import CodecName, parse
from peer.compression.quantised import Quantised
from peer.compression.sparse_loco import SparseLoCo
from peer.compression.top_k import TopK

__all__ = ["UNCOMPRESSED", "Codec", "codec_named"]

UNCOMPRESSED: Codec = Uncompressed()


def codec_named(name: str | CodecName) -> Codec:
    """Return the codec of this name.

    Raises:
        ConfigurationError: there is none.
    """
    parsed = name if isinstance(name, CodecName) else parse(name)
    canonical = str(parsed)
    if parsed.family == "qsgd":
        return Quantised(canonical, parsed.bits, is_stochastic=True)
    if parsed.family == "topk":
        return TopK(canonical, parsed.ratio)
    return {
        "none": UNCOMPRESSED,
        "fp16": Float16(),
        "bf16": BFloat16(),
        "int8": Quantised(canonical, 8, is_stochastic=False),
        "sparseloco": SparseLoCo(),
    }[parsed.family]
