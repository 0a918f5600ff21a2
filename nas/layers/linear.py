"""The one linear map of the models: no bias, and initialised once, as the models need it.

`nn.Linear` fills its weight with a distribution that the model would overwrite; at deployment sizes that is seconds.
"""

from torch import nn

INIT_STD = 0.02
"""Standard deviation of every projection and embedding (Radford et al., GPT-2, section 2.3)."""


class Linear(nn.Linear):
    """y = W x, W normal with standard deviation 0.02."""

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features, bias=False)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=INIT_STD)
