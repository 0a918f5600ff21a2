"""Mixture of experts: each token runs through the `top_k` GLUs that a softmax router prefers, weighted by the router.

The weights of the chosen experts sum to one (Mixtral, arXiv 2401.04088, section 2.1). Shared experts run for every
token; they are one GLU of their joint width. No token is dropped (`kernels.moe_ffn`).
In training the balance loss E * sum_e f_e P_e, f the share of assignments and P the mean probability of an expert, is
added to the context (Switch, arXiv 2101.03961, equation 4, over all top_k choices).
"""

import torch
from torch import Tensor, nn

from kernels import moe_ffn, route_top_k
from nas.architecture.ffns import Activation, Glu, Moe
from nas.context import Context
from nas.ffns.base import Ffn
from nas.ffns.glu import GluFfn
from nas.layers.linear import INIT_STD, Linear


class MoeFfn(Ffn):
    """Expert weights are stacked: `experts_in` [E, d, 2 d_ff] (gate, then up) and `experts_out` [E, d_ff, d]."""

    def __init__(self, options: Moe, d_model: int) -> None:
        super().__init__()
        self.num_experts, self.top_k = options.num_experts, options.top_k
        self.activation: Activation = options.activation
        self.balance_weight = options.balance_weight
        self.router = Linear(d_model, options.num_experts)
        self.experts_in = nn.Parameter(torch.empty(options.num_experts, d_model, 2 * options.d_ff))
        self.experts_out = nn.Parameter(torch.empty(options.num_experts, options.d_ff, d_model))
        for weight in (self.experts_in, self.experts_out):
            nn.init.normal_(weight, std=INIT_STD)
        shared = (
            Glu(d_ff=options.num_shared * options.d_ff, activation=options.activation) if options.num_shared else None
        )
        self.shared = GluFfn(shared, d_model) if shared else None

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        tokens = x.reshape(-1, x.shape[-1])
        logits = self.router(tokens)
        chosen, weights = route_top_k(logits, self.top_k)
        if self.training and context is not None and self.balance_weight:
            context.losses.append(self.balance_weight * self._balance(logits, chosen))
        y = moe_ffn(tokens, self.experts_in, self.experts_out, chosen, weights, activation=self.activation)
        return y.view(x.shape) if self.shared is None else y.view(x.shape) + self.shared(x)

    def flops(self, tokens: int) -> int:
        router = 2 * tokens * self.router.weight.numel()
        experts = 2 * tokens * self.top_k * self._expert_parameters()
        return router + experts + (0 if self.shared is None else self.shared.flops(tokens))

    def active_parameters(self) -> int:
        return super().active_parameters() - (self.num_experts - self.top_k) * self._expert_parameters()

    def scale_output(self, factor: float) -> None:
        with torch.no_grad():
            self.experts_out.mul_(factor)
        if self.shared is not None:
            self.shared.scale_output(factor)

    def _balance(self, logits: Tensor, chosen: Tensor) -> Tensor:
        """E * sum_e f_e P_e of logits [N, E] and the experts chosen [N, K]."""
        expert_of = chosen.flatten()
        times = torch.zeros(self.num_experts, dtype=torch.int64, device=logits.device)
        share = times.scatter_add(0, expert_of, torch.ones_like(expert_of)) / expert_of.numel()
        return self.num_experts * (share * logits.float().softmax(-1).mean(0)).sum()

    def _expert_parameters(self) -> int:
        return (self.experts_in.numel() + self.experts_out.numel()) // self.num_experts
