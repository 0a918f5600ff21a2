"""The one linear map of the models: without a bias unless asked for, and initialised once, as the models need it.

`nn.Linear` fills its weight with a distribution that the model would overwrite; at deployment sizes that is seconds.
"""

from torch import nn

INIT_STD = 0.02
"""Standard deviation of every projection and embedding (Radford et al., GPT-2, section 2.3)."""


class Linear(nn.Linear):
    """y = W x + b, W normal with standard deviation 0.02, b (where there is one) zero."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False) -> None:
        super().__init__(in_features, out_features, bias=bias)

    def reset_parameters(self) -> None:
        if self.weight.is_meta:  # only counted, hundreds of times a second: there is nothing to fill
            return
        nn.init.normal_(self.weight, std=INIT_STD)
        if self.bias is not None:
            nn.init.zeros_(self.bias)
