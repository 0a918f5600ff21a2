"""The options of attention that is exact over the last tokens and linear over all earlier ones."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from nas.architecture.errors import ArchitectureError
from nas.architecture.matrix_recurrence import LARGEST_COLUMNS, LARGEST_ROWS
from nas.architecture.mixers import GroupedHeads, used_positions
from nas.architecture.options import option
from nas.architecture.positions import DEFAULT_ROPE_BASE, Position

PositiveMap = Literal["elu", "relu", "softmax", "hedgehog"]


@dataclass(frozen=True, kw_only=True)
class WindowLinearAttention(GroupedHeads):
    """A head attends to its last `window` tokens by exp(q k), to all earlier ones by features, under one normaliser.

    What leaves the window is written to a matrix state (LoLCATs, arXiv 2410.10254, section 3.3; the remainder of
    Based, arXiv 2402.18668, there as a layer of its own). feature_map: positive, of queries and keys as rotated.
    """

    kind: ClassVar[str] = "window_linear_attention"
    # Its rates are not measured; those of the nearest mixer with a state stand in.
    family: ClassVar[str] = "gated_linear_attention"

    window: int = option(64, role="tokens", minimum=1)
    feature_map: PositiveMap = option("hedgehog")
    position: Position = option("rope")
    rope_base: float = option(DEFAULT_ROPE_BASE, minimum=1)

    @property
    def feature_size(self) -> int:
        """Channels of a query or key after the feature map: rows of the state."""
        return 2 * self.head_dim if self.feature_map == "hedgehog" else self.head_dim

    @property
    def value_size(self) -> int:
        """Columns of the state: the values, and beside them the sum of weights."""
        return self.head_dim + 1

    def check(self) -> None:
        super().check()
        if self.feature_size > LARGEST_ROWS or self.value_size > LARGEST_COLUMNS:
            raise ArchitectureError(
                f"A state may have at most {LARGEST_ROWS} rows and {LARGEST_COLUMNS} columns, but "
                f"head_dim={self.head_dim} with feature_map={self.feature_map} gives "
                f"{self.feature_size} rows and {self.value_size} columns."
            )

    def canonical(self, d_model: int) -> Self:
        return replace(super().canonical(d_model), **used_positions(self))
