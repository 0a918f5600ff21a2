"""The architecture as data: a stack of blocks, each a token mixer and an FFN, with the few numbers around them."""

from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

from nas.architecture.errors import ArchitectureError
from nas.architecture.ffns import FfnOptions, Glu, Mlp, Moe, NoFfn
from nas.architecture.head_mix import HeadMix
from nas.architecture.kv_sharing import check_sources
from nas.architecture.mixers import Attention, MixerOptions, NoMixer
from nas.architecture.options import DEFAULT_NORM_EPS, Options, option

Loss = Literal["causal", "masked_diffusion"]
Norm = Literal["rmsnorm", "layernorm"]
NormPlacement = Literal["pre", "post", "sandwich", "residual"]
WidthRoot = Literal["sqrt_d_model"]


@dataclass(frozen=True, kw_only=True)
class Block(Options):
    """One residual block: a mixer, then an FFN. Either may be absent, not both.

    A sublayer f changes the stream x by where its norm n stands: `pre`: skip x + scale f(n(x)); `post`:
    skip x + scale n(f(x)) (OLMo 2, arXiv 2501.00656, section 3.2); `sandwich`: skip x + scale n'(f(n(x))) (Gemma 2,
    arXiv 2408.00118, section 2); `residual`: skip n(x) + scale f(n(x)) (MiniMax-01, arXiv 2501.08313).
    Where `parallel`, both read one norm of x and their results are added together (GPT-J; Cohere's Command R).
    weights_of: the weights are those of the block so many before it, which must be the same in every other way: a loop
    over depth where a range of blocks follows itself, a shared block where it returns (Universal Transformers, arXiv
    1807.03819; Zamba, arXiv 2405.16712, section 2). Its state is its own, and so are:
    mixer_adapter_rank, ffn_adapter_rank: low-rank additions to the projections of queries, keys and values, each of
    that rank, and to the first projection of the FFN (Zamba2, arXiv 2411.15242, figure 2).
    aside: the stream stays as it is; what the block makes of it goes through a projection and is added to what the
    next block reads, or the head, but not to the stream there (Zamba, equation 6).
    """

    mixer: MixerOptions = NoMixer()
    ffn: FfnOptions = NoFfn()
    mixer_norm: NormPlacement = option("pre", rare=True)
    ffn_norm: NormPlacement = option("pre", rare=True)
    mixer_skip: float = option(1.0, rare=True)
    ffn_skip: float = option(1.0, rare=True)
    mixer_scale: float = option(1.0, rare=True)
    ffn_scale: float = option(1.0, rare=True)
    parallel: bool = option(False, rare=True)
    weights_of: int | None = option(None, minimum=1, rare=True)
    mixer_adapter_rank: int = option(0, minimum=0, rare=True)
    ffn_adapter_rank: int = option(0, minimum=0, rare=True)
    aside: bool = option(False, rare=True)

    def check(self) -> None:
        if not isinstance(self.mixer, MixerOptions):
            raise ArchitectureError(f"mixer must be a token mixer, but got {self.mixer!r}.")
        if not isinstance(self.ffn, FfnOptions):
            raise ArchitectureError(f"ffn must be an FFN, but got {self.ffn!r}.")
        if isinstance(self.mixer, NoMixer) and isinstance(self.ffn, NoFfn):
            raise ArchitectureError("A block needs a mixer or an FFN, but both are none.")
        if self.parallel and (isinstance(self.mixer, NoMixer) or isinstance(self.ffn, NoFfn)):
            raise ArchitectureError("A parallel block needs a mixer and an FFN, but one of them is none.")
        if self.parallel and (self.mixer_norm, self.ffn_norm, self.ffn_skip) != ("pre", "pre", 1.0):
            raise ArchitectureError(
                "A parallel block has one norm, before both of its parts, and one skip, mixer_skip, but got "
                f"mixer_norm={self.mixer_norm}, ffn_norm={self.ffn_norm}, ffn_skip={self.ffn_skip}."
            )
        if self.mixer_adapter_rank and not isinstance(self.mixer, Attention):
            raise ArchitectureError(
                f"mixer_adapter_rank needs a mixer of kind attention, but got {self.mixer_adapter_rank} with "
                f"{self.mixer.kind}."
            )
        if self.ffn_adapter_rank and not isinstance(self.ffn, Glu | Mlp):
            raise ArchitectureError(
                f"ffn_adapter_rank needs an FFN of kind glu or mlp, but got {self.ffn_adapter_rank} with "
                f"{self.ffn.kind}."
            )
        wide = isinstance(self.mixer, Attention) and self.mixer.reads == "with_embedding"
        if wide and (self.parallel or self.mixer_norm not in ("pre", "sandwich")):
            raise ArchitectureError(
                "An attention that reads the embedding beside the stream needs one norm before both, mixer_norm pre or "
                f"sandwich, and no FFN in parallel, but got mixer_norm={self.mixer_norm}, parallel={self.parallel}."
            )

    @property
    def has_own(self) -> bool:
        """Whether each use of these weights has some of its own beside them."""
        return self.aside or self.mixer_adapter_rank > 0 or self.ffn_adapter_rank > 0


@dataclass(frozen=True, kw_only=True)
class Architecture(Options):
    """A whole network. Equality and hash are those of the data; `canonical_id` tells whether two compute the same.

    norm, norm_eps, norm_bias: of the blocks and of the last norm. Embeddings are multiplied by `embedding_scale` and
    normed where `embedding_norm` (RWKV, arXiv 2305.13048), logits multiplied by `logits_scale` and then soft-capped:
    c tanh(logits / c) with c = `logits_soft_cap`.
    num_meta_tokens: so many learned vectors are read before every text, at the first positions (Hymba, arXiv
    2411.13676, section 2.3).
    loss: `causal`, the next token from those before it; `masked_diffusion`, masked tokens from all others (MDLM, arXiv
    2406.07524; LLaDA, 2502.09992), with an embedding more, that of the mask, and parts that may see later tokens.
    """

    name: str = "unnamed"
    d_model: int = option(minimum=1)
    vocab_size: int = option(minimum=1)
    loss: Loss = option("causal")
    tie_embeddings: bool = option(True)
    norm: Norm = option("rmsnorm", rare=True)
    norm_eps: float = option(DEFAULT_NORM_EPS, minimum=0, rare=True)
    norm_bias: bool = option(False, rare=True)
    embedding_scale: float | WidthRoot = option(1.0, rare=True)
    embedding_norm: bool = option(False, rare=True)
    logits_scale: float = option(1.0, rare=True)
    logits_soft_cap: float | None = option(None, minimum=1e-3, rare=True)
    num_meta_tokens: int = option(0, minimum=0, rare=True)
    blocks: tuple[Block, ...] = ()

    def check(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise ArchitectureError(f"name must be a word, but got {self.name!r}.")
        if not self.blocks:
            raise ArchitectureError("An architecture needs at least one block, but got none.")
        if self.num_meta_tokens and any(isinstance(b.ffn, Moe) and b.ffn.choice == "hash" for b in self.blocks):
            raise ArchitectureError(
                "Meta tokens have no ids, which hash routing needs, but got num_meta_tokens="
                f"{self.num_meta_tokens} and an FFN with choice: hash."
            )
        if self.loss == "causal":
            check_causal(self.blocks)
        check_tied(self.blocks)
        check_sources([block.mixer for block in self.blocks])
        if self.norm_bias and self.norm == "rmsnorm":
            raise ArchitectureError("norm_bias needs norm: layernorm, but norm is rmsnorm, which has none.")

    @property
    def causal(self) -> bool:
        """Whether tokens are read and written one after the other."""
        return self.loss == "causal"

    @cached_property
    def weights_at(self) -> tuple[int, ...]:
        """For every block the index of the one whose weights it has: its own, or that of an earlier block."""
        found: list[int] = []
        for i, block in enumerate(self.blocks):
            found.append(i if block.weights_of is None else found[i - block.weights_of])
        return tuple(found)

    @cached_property
    def distinct_blocks(self) -> tuple[tuple[Block, int], ...]:
        """Every different block, and how often it stands there: what is the same for equal blocks is taken once."""
        return tuple(Counter(self.blocks).items())

    @property
    def mixers(self) -> tuple[MixerOptions, ...]:
        """Every token mixer in order, the parts of head_mix counted each."""
        found: list[MixerOptions] = []
        for block in self.blocks:
            found.extend(block.mixer.parts if isinstance(block.mixer, HeadMix) else (block.mixer,))
        return tuple(m for m in found if not isinstance(m, NoMixer))


def looks_ahead(block: Block) -> bool:
    """Whether a part of the block sees later tokens."""
    return block.mixer.direction != "forward" or (isinstance(block.ffn, Moe) and block.ffn.choice == "experts")


def check_causal(blocks: tuple[Block, ...]) -> None:
    """Raise ArchitectureError, naming the block, where a part sees later tokens."""
    for i, block in enumerate(blocks):
        if block.mixer.direction != "forward":
            raise ArchitectureError(
                f"blocks[{i}]: a mixer that reads both ways sees the tokens that a causal loss asks for; use "
                "direction: forward, or loss: masked_diffusion."
            )
        if looks_ahead(block):
            raise ArchitectureError(
                f"blocks[{i}]: experts that choose their tokens (expert choice) compare a token with later ones, which "
                "a causal loss does not allow; use choice: scores, or loss: masked_diffusion."
            )


def check_tied(blocks: tuple[Block, ...]) -> None:
    """Raise ArchitectureError unless every block with another's weights stands behind one that is like it."""
    for i, block in enumerate(blocks):
        if block.weights_of is None:
            continue
        if block.weights_of > i:
            raise ArchitectureError(
                f"blocks[{i}]: weights_of must name a block before it, of which there are {i}, but got "
                f"{block.weights_of}."
            )
        source = blocks[i - block.weights_of]
        if replace(source, weights_of=None) != replace(block, weights_of=None):
            raise ArchitectureError(
                f"blocks[{i}]: a block with the weights of another must be the same in every other way, but "
                f"blocks[{i - block.weights_of}] is not."
            )
