"""How far a model of ours, as loaded, is from the model of transformers whose weights it has."""

import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas.interop import ReadByNames, load_pretrained
from nas.model import Model
from scripts.interop_oracles.models import NEW_TOKENS, TOKENS, saved, tokens

PROMPT, READ_AT_ONCE = 7, 9


@dataclass(frozen=True)
class Comparison:
    """Largest differences, in float32.

    Attributes:
        spread: standard deviation of their logits, which tells how large the logits are.
        logits, decoding: of a logit, in one pass and token by token after some tokens at once.
        continued: whether greedy generation gives the same 20 tokens.
        loss, gradients: relative: of the cross-entropy, and of a gradient to the largest of its parameter.
    """

    spread: float
    logits: float
    decoding: float
    continued: bool
    loss: float
    gradients: float


def compare(theirs: nn.Module, ours: Model) -> Comparison:
    """Both read the same tokens; weights stay as they are."""
    with torch.no_grad():
        expected = theirs(tokens()).logits
        logits = (ours(tokens()) - expected).abs().max().item()
        decoding = _decoding(ours, expected)
        continued = _continues(theirs, ours)
    loss, gradients = _training(theirs, ours)
    return Comparison(expected.std().item(), logits, decoding, continued, loss, gradients)


def _decoding(ours: Model, expected: Tensor) -> float:
    logits, state = ours.prefill(tokens()[:, :READ_AT_ONCE], ours.init_state(len(expected), TOKENS))
    decoded = [logits]
    for position in range(READ_AT_ONCE, TOKENS):
        logits, state = ours.step(tokens()[:, position], state)
        decoded.append(logits)
    return (torch.stack(decoded, dim=1) - expected[:, READ_AT_ONCE - 1 :]).abs().max().item()


def _continues(theirs: nn.Module, ours: Model) -> bool:
    """Whether each token that ours generates is their likeliest one after those before it: then theirs gives the same.

    One pass of theirs takes the place of one for every token.
    """
    generated = ours.generate(tokens()[:, :PROMPT], NEW_TOKENS)
    likeliest = theirs(generated[:, :-1]).logits[:, PROMPT - 1 :].argmax(-1)
    return torch.equal(generated[:, PROMPT:], likeliest)


def _training(theirs: nn.Module, ours: Model) -> tuple[float, float]:
    losses = []
    for model, logits in ((ours, ours(tokens())), (theirs, theirs(tokens()).logits)):
        model.zero_grad()
        losses.append(F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens()[:, 1:].flatten()))
        losses[-1].backward()
    expected = _as_ours(theirs)
    differences = []
    for name, parameter in ours.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad  # of an indexer
        scale = expected[name].abs().max().clamp_min(torch.finfo(torch.float32).tiny)
        differences.append((gradient - expected[name]).abs().max() / scale)
    return abs((losses[0] - losses[1]) / losses[1]).item(), torch.stack(differences).max().item()


@torch.no_grad()
def _as_ours(theirs: nn.Module) -> dict[str, Tensor]:
    """Their gradients by our names: loading is affine in the tensors, so they go the way of weights, less what zeros
    come to."""
    kept = {name: parameter.detach().clone() for name, parameter in theirs.named_parameters()}
    zeros = {name: torch.zeros_like(parameter) for name, parameter in kept.items()}
    gradients = {name: zeros[name] if p.grad is None else p.grad for name, p in theirs.named_parameters()}
    try:
        loaded = [_loaded_with(theirs, values) for values in (gradients, zeros)]
    finally:
        _fill(theirs, kept)
    return {name: gradient - loaded[1][name] for name, gradient in loaded[0].items()}


def _loaded_with(theirs: nn.Module, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    _fill(theirs, values)
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore", ReadByNames)
        return dict(load_pretrained(saved(theirs, Path(directory)))[1].named_parameters())


def _fill(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    for name, parameter in model.named_parameters():
        parameter.copy_(values[name])
