"""Mixture of experts: each token runs through the `top_k` experts that a router prefers, weighted by the router.

By default experts are GLUs and the weights of the chosen ones sum to one (Mixtral, arXiv 2401.04088, section 2.1).
Other routers and experts: `kernels.route_top_k` and `kernels.moe_ffn`.
Shared experts run for every token; they are one FFN of their joint width. No token is dropped. Zero experts, numbered
behind the others, return the token itself; a hash of the token's id may choose in place of the scores, or the experts
their tokens (`nas.ffns.expert_choice`).
In training the balance loss E * sum_e f_e P_e, f the share of assignments and P the mean probability of an expert, is
added to the context (Switch, arXiv 2101.03961, equation 4, over all top_k choices), and where asked for the mean square
of the log-sum-exp of the router's logits (ST-MoE, arXiv 2202.08906, equation 5).
"""

import torch
from torch import Tensor, nn

from kernels import moe_ffn, route_top_k
from nas.architecture.ffns import Glu, Mlp, Moe
from nas.context import Context
from nas.ffns.base import Ffn
from nas.ffns.expert_choice import best_tokens
from nas.ffns.glu import GluFfn
from nas.ffns.mlp import MlpFfn
from nas.layers.linear import INIT_STD, Linear


class HashedExperts(nn.Module):
    """Which experts a hash of a token's id names; a module of its own, so that measuring can put others in place."""

    def __init__(self, num_experts: int, top_k: int) -> None:
        super().__init__()
        self.num_experts, self.top_k = num_experts, top_k

    def forward(self, ids: Tensor) -> Tensor:
        """Token ids [N] -> the expert that is named, and the next ones, [N, k]."""
        mixed = (ids.unsqueeze(1).long() * 0x9E3779B1) & 0xFFFFFFFF
        mixed = ((mixed ^ (mixed >> 15)) * 0x6C8E9CF5) & 0xFFFFFFFF
        return ((mixed >> 8) + torch.arange(self.top_k, device=ids.device)) % self.num_experts


class MoeFfn(Ffn):
    """Expert weights are stacked: `experts_in` [E, d, 2 d_ff] (gate, then up; [E, d, d_ff] without a gate), and
    `experts_out` [E, d_ff, d]; their biases are [E, ...] likewise."""

    selection_bias: Tensor | None
    router: Linear | None
    hashed: HashedExperts | None

    def __init__(self, options: Moe, d_model: int) -> None:
        super().__init__()
        self.num_experts, self.top_k = options.num_experts, options.top_k
        self.options = options
        self.balance_weight = options.balance_weight
        self.routed = options.num_experts + options.num_zero
        hashed = options.choice == "hash"
        self.hashed = HashedExperts(self.routed, self.top_k) if hashed else None
        # The only weight of a single hashed expert is one.
        settled = hashed and options.normalise and options.top_k == 1
        self.router = None if settled else Linear(d_model, self.routed, bias=options.router_bias)
        self.register_buffer("selection_bias", torch.zeros(self.routed) if options.selection_bias else None)
        hidden = options.d_ff * (2 if options.gated else 1)
        self.experts_in = nn.Parameter(torch.empty(options.num_experts, d_model, hidden))
        self.experts_out = nn.Parameter(torch.empty(options.num_experts, options.d_ff, d_model))
        for weight in (self.experts_in, self.experts_out):
            nn.init.normal_(weight, std=INIT_STD)
        biased = options.expert_bias
        self.experts_in_bias = nn.Parameter(torch.zeros(options.num_experts, hidden)) if biased else None
        self.experts_out_bias = nn.Parameter(torch.zeros(options.num_experts, d_model)) if biased else None
        self.shared = _shared(options, d_model) if options.num_shared else None
        self.shared_gate = Linear(d_model, 1) if options.shared_gate else None

    def forward(self, x: Tensor, context: Context | None = None) -> Tensor:
        if self.options.choice == "experts":
            y = self._chosen_by_experts(x, context)
        else:
            tokens = x.reshape(-1, x.shape[-1])
            y = self._of_experts(tokens, *self._routed(tokens, context)).view(x.shape)
        if self.shared is None:
            return y
        shared = self.shared(x)
        return y + (shared if self.shared_gate is None else self.shared_gate(x).sigmoid() * shared)

    def _of_experts(self, tokens: Tensor, chosen: Tensor, weights: Tensor) -> Tensor:
        """The weighted sum [N, d] of the experts chosen [N, k], zero ones included, of tokens [N, d]."""
        identity = None
        if self.options.num_zero:
            zero = chosen >= self.num_experts
            identity = (weights * zero).sum(-1, keepdim=True)
            chosen, weights = chosen.masked_fill(zero, -1), weights * ~zero
        y = moe_ffn(
            tokens,
            self.experts_in,
            self.experts_out,
            chosen,
            weights,
            b_in=self.experts_in_bias,
            b_out=self.experts_out_bias,
            activation=self.options.activation,
            gated=self.options.gated,
            clamp=self.options.clamp,
            up_offset=self.options.up_offset,
        )
        return y if identity is None else y + identity.to(y.dtype) * tokens.to(y.dtype)

    def _chosen_by_experts(self, x: Tensor, context: Context | None) -> Tensor:
        """Every expert on the tokens of x [B, T, d] that it chose in each sequence."""
        if x.ndim != 3:
            raise ValueError(
                "Experts that choose their tokens compare all tokens of a sequence, x must be [B, T, d], but got "
                f"{list(x.shape)}: a sequence is read whole."
            )
        assert self.router is not None, "scores come from a router"
        tokens = x.reshape(-1, x.shape[-1])
        logits = self.router(tokens)
        self._add_z_loss(logits, context)
        token, weight = best_tokens(self._scores(logits).view(*x.shape[:2], self.routed), self.top_k)
        expert = torch.arange(self.routed, device=x.device).repeat_interleave(token.numel() // self.routed).unsqueeze(1)
        weight = weight.flatten().unsqueeze(1) * self.options.weight_scale
        y = self._of_experts(tokens[token.flatten()], expert, weight)
        # Summed in float32, in an order that a GPU does not promise.
        total = torch.zeros_like(tokens, dtype=torch.float32).index_add(0, token.flatten(), y.float())
        return total.to(y.dtype).view(x.shape)

    def flops(self, tokens: int) -> int:
        router = 0 if self.router is None else 2 * tokens * self.router.weight.numel()
        experts = 2 * tokens * self.top_k * (self.experts_in.numel() + self.experts_out.numel()) // self.num_experts
        gate = 0 if self.shared_gate is None else 2 * tokens * self.shared_gate.weight.numel()
        return router + experts + gate + (0 if self.shared is None else self.shared.flops(tokens))

    def active_parameters(self) -> int:
        of_experts = [p for name, p in self.named_parameters() if name.startswith("experts_")]
        of_one = sum(parameter.numel() for parameter in of_experts) // self.num_experts
        return super().active_parameters() - (self.num_experts - self.top_k) * of_one

    def scale_output(self, factor: float) -> None:
        with torch.no_grad():
            self.experts_out.mul_(factor)
        if self.shared is not None:
            self.shared.scale_output(factor)

    def _routed(self, tokens: Tensor, context: Context | None) -> tuple[Tensor, Tensor]:
        """Of tokens [N, d] the experts chosen, [N, k], those from `num_experts` on zero experts, and their weights."""
        options = self.options
        if self.hashed is not None:
            chosen = self.hashed(_ids(tokens, context))
            if self.router is None:
                return chosen, torch.ones_like(chosen, dtype=torch.float32)
            scores = self._scores(self.router(tokens)).gather(1, chosen)
            scores = scores / scores.sum(-1, keepdim=True).clamp_min(1e-20) if options.normalise else scores
            return chosen, scores * options.weight_scale
        assert self.router is not None, "scores come from a router"
        logits = self.router(tokens)
        chosen, weights = route_top_k(
            logits,
            self.top_k,
            scoring=options.router,
            bias=self.selection_bias,
            num_groups=options.num_groups,
            top_groups=options.top_groups,
            normalize=options.normalise,
            scale=options.weight_scale,
        )
        if self.training and context is not None and self.balance_weight:
            context.losses.append(self.balance_weight * self._balance(logits, chosen))
        self._add_z_loss(logits, context)
        if self.training and options.bias_rate:
            self._move_bias(chosen)
        return chosen, weights

    def _add_z_loss(self, logits: Tensor, context: Context | None) -> None:
        if self.training and context is not None and self.options.z_weight:
            context.losses.append(self.options.z_weight * logits.float().logsumexp(-1).square().mean())

    def _scores(self, logits: Tensor) -> Tensor:
        return logits.float().softmax(-1) if self.options.router == "softmax" else logits.float().sigmoid()

    def _balance(self, logits: Tensor, chosen: Tensor) -> Tensor:
        """E * sum_e f_e P_e of logits [N, E] and the experts chosen [N, K], zero ones included."""
        share, scores = _times(chosen.flatten(), self.routed) / chosen.numel(), self._scores(logits)
        return self.routed * (share * (scores / scores.sum(-1, keepdim=True)).mean(0)).sum()

    @torch.no_grad()
    def _move_bias(self, chosen: Tensor) -> None:
        """Experts chosen less often than the mean become likelier to be chosen (arXiv 2408.15664, algorithm 1)."""
        assert self.selection_bias is not None, "what is moved is there"
        times = _times(chosen.flatten(), self.routed).to(self.selection_bias.dtype)
        self.selection_bias.add_(self.options.bias_rate * (times.mean() - times).sign())


def _ids(tokens: Tensor, context: Context | None) -> Tensor:
    """The ids of the tokens [N, d] that are routed, [N]."""
    if context is None or context.tokens is None or context.tokens.numel() != tokens.shape[0]:
        raise ValueError(
            "Hash routing needs the ids of the tokens that it routes in context.tokens, one for each of the "
            f"{tokens.shape[0]} tokens: call it from a model."
        )
    return context.tokens.reshape(-1)


def _times(expert_of: Tensor, experts: int) -> Tensor:
    """How often each expert was chosen, [experts]; no size goes to the host."""
    times = torch.zeros(experts, dtype=torch.int64, device=expert_of.device)
    return times.scatter_add(0, expert_of, torch.ones_like(expert_of))


def _shared(options: Moe, d_model: int) -> GluFfn | MlpFfn:
    width = options.num_shared * options.d_ff
    if options.gated:
        return GluFfn(Glu(d_ff=width, activation=options.activation), d_model)
    return MlpFfn(Mlp(d_ff=width, activation=options.activation), d_model)
