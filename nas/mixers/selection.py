"""Where a mixer says what its queries see: a module of its own, so that measuring can put a pattern in place."""

from torch import Tensor, nn


class Selection(nn.Module):
    """Gives back the picks it gets. Of blocks of `block_size` tokens, the `first` and those up to the own, `last` of
    them, are taken whatever their scores."""

    def __init__(self, *, block_size: int = 1, first: int = 0, last: int = 0) -> None:
        super().__init__()
        self.block_size, self.first, self.last = block_size, first, last

    def forward(self, picks: Tensor, length: int) -> Tensor:
        """The blocks that each of the last Tq of `length` tokens sees, [B, Tq, H, S], -1 where there are fewer.

        Of a step that was recorded as a CUDA graph, `length` stays that of the recording: only measuring asks for it.
        """
        return picks
