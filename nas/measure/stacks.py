"""Networks that stand for others while they are measured: a stack of one kind of block, and ends without blocks."""

import torch
from torch import nn

from nas.architecture import Architecture, Block, Glu
from nas.compile import compile_architecture
from nas.measure.table_parts import SCALED, Ends, Layer, joint_of, stack
from nas.model import Model

CAP = 30.0


def built_ends(ends: Ends, d_model: int) -> Model:
    """A network of nothing but its ends, on the default device."""
    architecture = Architecture(
        name="ends",
        d_model=d_model,
        vocab_size=ends.vocab_size,
        tie_embeddings=ends.tied,
        norm=ends.norm,
        norm_bias=ends.norm_bias,
        embedding_scale=SCALED if ends.embedding_scaled else 1.0,
        embedding_norm=ends.embedding_normed,
        logits_scale=SCALED if ends.logits_scaled else 1.0,
        logits_soft_cap=CAP if ends.logits_capped else None,
        loss=ends.loss,
        blocks=(Block(ffn=Glu(d_ff=1)),),
    )
    model = compile_architecture(architecture)
    model.blocks = nn.ModuleList()  # type: ignore[assignment]
    return model


def as_joined(layer: Layer, model: Model) -> Model:
    """A stack whose blocks join as the layer says: without norms of their own where these are shared."""
    if joint_of(layer).placement == "shared":
        for block in model.blocks:
            block.ffn_norm = nn.Identity()
    return model


def bare_stack(layer: Layer, d_model: int) -> Model:
    """One block of the kind without data, on the meta device."""
    with torch.device("meta"):
        return as_joined(layer, compile_architecture(stack(layer, d_model, 1, 1)))


def bare_ends(ends: Ends, d_model: int) -> Model:
    """The ends without data, on the meta device."""
    with torch.device("meta"):
        return built_ends(ends, d_model)
