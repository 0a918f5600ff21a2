"""What may be asked of attention over listed blocks besides its tensors, as one value for every implementation."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Options:
    """The options of `kernels.block_sparse_attention`, checked and with the scale filled in; see there."""

    block_size: int
    query_block: int
    scale: float
    causal: bool
