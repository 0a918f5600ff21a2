"""Models that `transformers` saved, as architectures and weights of ours: config.json and safetensors, no code.

The tables of `nas/interop/families` say which field is which option and which tensor is which parameter; a type of
model without a table is read by the names that decoders have in common, with a warning. Whatever is not explained is
refused by name: a field that was not read, a tensor that nothing took.
"""

import warnings
from pathlib import Path

import torch
from torch import Tensor

from nas.architecture import Architecture, Block, Moe
from nas.compile import compile_architecture
from nas.interop.errors import InteropError, ReadByNames
from nas.interop.families import FAMILIES, family_of
from nas.interop.family import Family, Part
from nas.interop.fields import Fields, read_config
from nas.interop.tensors import Source, Weights
from nas.model import Model


def load_pretrained(path: str | Path, *, dtype: torch.dtype | None = None) -> tuple[Architecture, Model]:
    """The architecture and the model, in evaluation mode on the CPU, of a directory that `transformers` saved.

    dtype: of the weights; the one of each stored tensor unless given. Executes nothing of the directory's.
    Warns (ReadByNames) where there is no table for the type of model, and names had to tell what it is.
    Raises InteropError, in one sentence, for files that cannot be read, a missing or unexpected tensor, and a field
    that would change the computation and is not understood.
    """
    directory = Path(path)
    config = read_config(directory)
    with Weights(directory) as weights:
        fields = Fields(config, weights.names, weights.shape)
        family = family_of(fields)
        weights.respell(family.spellings)
        fields.tensors = weights.names
        architecture = family.read(fields)
        with torch.device("meta"):
            model = compile_architecture(architecture)
        for name, source, experts in sources(family, fields, architecture, model):
            _set(model, name, weights.take(source, experts), dtype)
        if model.head is None and family.head in weights.names:
            _check_tied(weights, family)
        weights.refuse_unread(family.derived)
    if config["model_type"] not in FAMILIES:
        warnings.warn(ReadByNames(config["model_type"]), stacklevel=2)
    return architecture, model.eval()


def sources(family: Family, fields: Fields, architecture: Architecture, model: Model) -> list[tuple[str, Source, int]]:
    """For every parameter and buffer of ours where it comes from, and how many experts are stacked there."""
    places, at = family.places(family, fields), architecture.weights_at
    with_weights = list(dict.fromkeys(at))
    found = []
    for name in [*dict(model.named_parameters()), *dict(model.named_buffers())]:
        room, _, rest = name.partition(".")
        if room == "blocks":
            number, _, within = rest.partition(".")
            first = with_weights[int(number)]
            block, place = architecture.blocks[first], places[first]
            experts = block.ffn.num_experts if isinstance(block.ffn, Moe) else 0
            if within.startswith("own."):
                _, use, inner = within.split(".", 2)
                its_place = places[[i for i, weights in enumerate(at) if weights == first][int(use)]]
                found.append((name, its_place.own[inner], experts))
                continue
            source = _within_layer(family, (place.mixer, place.ffn), block, within)
            prefix = family.layers.format(place.layer)
            found.append((name, Source(tuple(prefix + theirs for theirs in source.names), source.join), experts))
        elif room in ("norm", "embedding_norm"):
            theirs = family.last_norm if room == "norm" else family.embedding_norm
            found.append((name, family.norms(f"{theirs}.{rest}"), 0))
        else:
            found.append((name, Source((family.embedding if room == "embedding" else family.head,), _only), 0))
    return found


def _within_layer(family: Family, parts: tuple[Part, Part], block: Block, within: str) -> Source:
    module, _, inner = within.partition(".")
    mixer, ffn = parts
    norms = {
        "mixer_norm": mixer.norm,
        "mixer_post_norm": mixer.post_norm,
        "ffn_norm": ffn.norm,
        "ffn_post_norm": ffn.post_norm,
    }
    if module in norms:
        return family.norms(f"{norms[module]}.{inner}")
    return mixer.source(inner, block.mixer) if module == "mixer" else ffn.source(inner, block.ffn)


def _only(tensors: list[Tensor]) -> Tensor:
    return tensors[0]


def _set(model: Model, name: str, tensor: Tensor, dtype: torch.dtype | None) -> None:
    """Put a tensor into the place of a parameter on the meta device; raises InteropError for another shape."""
    owner, _, leaf = name.rpartition(".")
    module = model.get_submodule(owner)
    wanted = getattr(module, leaf)
    if tensor.shape != wanted.shape:
        raise InteropError(
            f"The tensors for {name} come to shape {tuple(tensor.shape)}, but the configuration asks for "
            f"{tuple(wanted.shape)}."
        )
    value = tensor.to(tensor.dtype if dtype is None else dtype).contiguous().clone()
    setattr(module, leaf, torch.nn.Parameter(value) if isinstance(wanted, torch.nn.Parameter) else value)


def _check_tied(weights: Weights, family: Family) -> None:
    if not torch.equal(weights.get(family.head), weights.get(family.embedding)):
        raise InteropError(
            f"config.json ties the head to the embedding, but {family.head} and {family.embedding} differ."
        )
