"""Mixture of depths: a GLU that one token in `one_in` passes, and the others go around.

    y_t = r_t GLU(x_t) for tokens that pass, else 0;  r_t = w x_t + b

Which tokens pass is decided in two ways. In training, those with the largest r of their sequence: the share is exact,
but a later token may take the place of an earlier one, so this knows the future and cannot decode. In evaluation a
token passes where a number of its own is positive: causal, the same in one pass as token by token, and a share that
only follows the one of training. That number is r, or the output of a predictor, W₂ relu(W₁ x), of an x that passes no
gradient on; a cross-entropy in `context.losses` teaches it to be positive for just those that passed in training.
Source: Raposo et al. (arXiv 2404.02258), section 3.4 (equation 1) and section 3.5 (both ways to sample). Theirs are
whole blocks, here only FFNs are passed by; how wide a predictor is stands nowhere there.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kernels import moe_ffn
from nas.architecture.ffns import Activation, MixtureOfDepths
from nas.context import Context
from nas.ffns.base import Ffn
from nas.layers.linear import INIT_STD, Linear

PREDICTOR_SHARE = 4  # the predictor has a fourth of the channels of the model


class PassingTokens(nn.Module):
    """Which tokens pass; a module of its own, so that measuring can put others in place."""

    def __init__(self, one_in: int) -> None:
        super().__init__()
        self.one_in = one_in

    def forward(self, scores: Tensor) -> Tensor:
        """Scores [..., T] -> bool of the same shape: the best of each sequence in training, else the positive ones.

        Scores are those of the router in training, and of what tells who passes in evaluation.
        """
        if not self.training:
            return scores > 0
        best = scores.topk(max(1, scores.shape[-1] // self.one_in), dim=-1).indices
        return torch.zeros_like(scores, dtype=torch.bool).scatter(-1, best, True)


class MixtureOfDepthsFfn(Ffn):
    """The GLU is the one expert [1, d, 2 d_ff] (gate, then up) and [1, d_ff, d] of a mixture that may choose none."""

    def __init__(self, options: MixtureOfDepths, d_model: int) -> None:
        super().__init__()
        self.one_in, self.choice_weight = options.one_in, options.choice_weight
        self.activation: Activation = options.activation
        self.router = Linear(d_model, 1, bias=True)
        self.predictor = None
        if options.told_by == "predictor":
            inner = max(1, d_model // PREDICTOR_SHARE)
            self.predictor = nn.Sequential(Linear(d_model, inner, bias=True), nn.ReLU(), Linear(inner, 1, bias=True))
        self.passing = PassingTokens(options.one_in)
        self.experts_in = nn.Parameter(torch.empty(1, d_model, 2 * options.d_ff))
        self.experts_out = nn.Parameter(torch.empty(1, options.d_ff, d_model))
        for weight in (self.experts_in, self.experts_out):
            nn.init.normal_(weight, std=INIT_STD)

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        scores = self.router(x).squeeze(-1).float()
        told = scores if self.predictor is None else self.predictor(x.detach()).squeeze(-1).float()
        passes = self.passing(scores if self.training else told)
        weight = self.choice_weight if self.predictor is None else 1.0
        if self.training and context is not None and weight:
            context.losses.append(weight * F.binary_cross_entropy_with_logits(told, passes.float()))
        chosen = passes.long().reshape(-1, 1) - 1  # the expert 0, or -1 for none
        tokens, weights = x.reshape(-1, x.shape[-1]), (scores * passes).reshape(-1, 1)
        y = moe_ffn(tokens, self.experts_in, self.experts_out, chosen, weights, activation=self.activation)
        return y.view(x.shape)

    def flops(self, tokens: int) -> int:
        layers = [self.router, *(() if self.predictor is None else (self.predictor[0], self.predictor[2]))]
        return 2 * tokens * (sum(layer.weight.numel() for layer in layers) + self._of_glu() // self.one_in)

    def active_parameters(self) -> int:
        """Of the GLU as many as a token uses on average."""
        return super().active_parameters() - self._of_glu() + self._of_glu() // self.one_in

    def scale_output(self, factor: float) -> None:
        with torch.no_grad():
            self.experts_out.mul_(factor)

    def _of_glu(self) -> int:
        return self.experts_in.numel() + self.experts_out.numel()
