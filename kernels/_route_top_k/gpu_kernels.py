"""Triton kernels of a router: the scores of a few tokens lie in registers from the one read of their logits on.

The k best are picked one after the other: the first of the largest, which then is free no longer. An expert's rank says
where its weight is written, so that nothing is gathered.

With w the weights of a token, v the scores of its experts and g the gradient of w, times the scale: that of normalised
scores is (g - sum(g w)) / sum(v), and that of the logits of a softmax w (g - sum(g w)).
"""

import triton
import triton.language as tl

SOFTMAX: tl.constexpr = tl.constexpr(0)
SIGMOID: tl.constexpr = tl.constexpr(1)
LEAST: tl.constexpr = tl.constexpr(1e-20)  # of a sum that is divided by


@triton.jit
def _tokens(logits, T, E, BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr):
    """Tokens, experts, which of them there are, and their logits."""
    t = tl.program_id(0).to(tl.int64) * BLOCK_T + tl.arange(0, BLOCK_T)
    e = tl.arange(0, BLOCK_E)
    inside = (t < T)[:, None] & (e < E)[None, :]
    x = tl.load(logits + (t * E)[:, None] + e[None, :], mask=inside, other=0.0).to(tl.float32)
    return t, e, inside, x


@triton.jit
def _softmax(x, among):
    """Over those of each row that are `among`; 0 for the others."""
    largest = tl.max(tl.where(among, x, -float("inf")), 1)[:, None]
    weights = tl.where(among, tl.exp(tl.where(among, x - largest, 0.0)), 0.0)
    return weights / tl.sum(weights, 1)[:, None]


@triton.jit
def _score(x, SCORING: tl.constexpr):
    """The sigmoid, or the root of softplus, and its derivative."""
    share = tl.sigmoid(x)
    if SCORING == SIGMOID:
        value = share
        slope = share * (1.0 - share)
    else:
        # ln(1 + r), whose error the second factor takes back where 1 + r is rounded (Higham, Accuracy and Stability of
        # Numerical Algorithms, section 1.14.1).
        r = tl.exp(-tl.abs(x))
        one_more = 1.0 + r
        rounded = one_more - 1.0
        logarithm = tl.where(rounded == 0.0, r, tl.log(one_more) * (r / tl.where(rounded == 0.0, 1.0, rounded)))
        value = tl.sqrt(tl.maximum(x, 0.0) + logarithm)
        slope = tl.where(value > 0.0, share / tl.where(value > 0.0, 2.0 * value, 1.0), 0.0)
    return value, slope


@triton.jit
def _first_of_largest(compared, among, e, BLOCK_E: tl.constexpr):
    """For each row the first e of those with the largest value `among` some; BLOCK_E where there are none."""
    compared = tl.where(among, compared, -float("inf"))
    largest = tl.max(compared, 1)[:, None]
    return tl.min(tl.where(among & (compared == largest), e[None, :], BLOCK_E), 1)


@triton.jit
def _in_best_groups(compared, inside, e, num_groups, top_groups, group_size, BLOCK_E: tl.constexpr):
    """Which experts lie in the groups whose two best have the largest sum."""
    group = (e // group_size)[None, :]
    of_group = compared
    for g in range(num_groups):
        mine = inside & (group == g)
        best = _first_of_largest(compared, mine, e, BLOCK_E)[:, None]
        total = tl.sum(tl.where(e[None, :] == best, compared, 0.0), 1)
        if group_size > 1:
            total += tl.max(tl.where(mine & (e[None, :] != best), compared, -float("inf")), 1)
        of_group = tl.where(mine, total[:, None], of_group)
    kept = inside & (group < 0)
    for _ in range(top_groups):
        best = _first_of_largest(of_group, inside & ~kept, e, BLOCK_E)[:, None]
        kept |= inside & (group == best // group_size)
    return kept


@triton.jit(do_not_specialize=["T", "k", "num_groups", "top_groups", "group_size", "scale"])
def forward_kernel(
    logits, bias, expert_index, expert_weight, T, E, k, num_groups, top_groups, group_size, scale,
    SCORING: tl.constexpr, NORMALIZE: tl.constexpr, BIASED: tl.constexpr, GROUPED: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    t, e, inside, x = _tokens(logits, T, E, BLOCK_T, BLOCK_E)
    exists = (t >= 0)[:, None] & (e < E)[None, :]  # rows behind the last token, too: they are not stored
    if SCORING == SOFTMAX:
        scores = _softmax(x, exists)
    else:
        scores, _ = _score(x, SCORING)
    compared = scores
    if BIASED:
        compared += tl.load(bias + e, mask=e < E, other=0.0).to(tl.float32)[None, :]
    # What is no number goes first, so that the weights tell.
    compared = tl.where(compared == compared, compared, float("inf"))
    free = exists
    if GROUPED:
        free = _in_best_groups(compared, exists, e, num_groups, top_groups, group_size, BLOCK_E)
    rank = tl.zeros((BLOCK_T, BLOCK_E), tl.int32) + k
    for place in range(k):
        picked = e[None, :] == _first_of_largest(compared, free, e, BLOCK_E)[:, None]
        rank = tl.where(picked, place, rank)
        free = free & ~picked
    chosen = rank < k
    weights = scores
    if NORMALIZE:
        if SCORING == SOFTMAX:
            weights = _softmax(x, chosen)  # the same quotient, without small denominators
        else:
            total = tl.sum(tl.where(chosen, scores, 0.0), 1)[:, None]
            weights = scores / tl.where(total < LEAST, LEAST, total)
    at = (t * k)[:, None] + rank
    stored = chosen & inside
    tl.store(expert_index + at, e[None, :].to(tl.int64), mask=stored)
    tl.store(expert_weight + at, weights * scale, mask=stored)


@triton.jit(do_not_specialize=["T", "k", "scale"])
def backward_kernel(
    grad, logits, expert_index, grad_logits, T, E, k, scale,
    SCORING: tl.constexpr, NORMALIZE: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    t, e, inside, x = _tokens(logits, T, E, BLOCK_T, BLOCK_E)
    exists = (t >= 0)[:, None] & (e < E)[None, :]
    chosen = exists & (e < 0)[None, :]
    g = tl.zeros((BLOCK_T, BLOCK_E), tl.float32)
    for place in range(k):
        index = tl.load(expert_index + t * k + place, mask=t < T, other=0)
        picked = e[None, :] == index[:, None]
        chosen = chosen | picked
        g = tl.where(picked, tl.load(grad + t * k + place, mask=t < T, other=0.0).to(tl.float32)[:, None], g)
    g *= scale
    if SCORING == SOFTMAX:
        weights = _softmax(x, chosen if NORMALIZE else exists)
        grads = weights * (g - tl.sum(weights * g, 1)[:, None])
    else:
        value, slope = _score(x, SCORING)
        if NORMALIZE:
            total = tl.sum(tl.where(chosen, value, 0.0), 1)[:, None]
            divisor = tl.where(total < LEAST, LEAST, total)
            common = tl.sum(tl.where(chosen, value, 0.0) * g, 1)[:, None] / divisor
            g = tl.where(chosen, (g - tl.where(total < LEAST, 0.0, common)) / divisor, 0.0)
        grads = g * slope
    tl.store(grad_logits + (t * E)[:, None] + e[None, :], grads.to(grad_logits.dtype.element_ty), mask=inside)
