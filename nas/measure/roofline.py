"""The least time that a network can take on a described device: every part at its arithmetic or at its memory traffic.

A bound, not a prediction: nothing is fused across parts, everything overlaps within one, launches are free. It knows
nothing of how mature a kernel is, which is why it is one of the three cost models.

* Arithmetic: two per multiply-accumulate; a training step is three times the forward pass.
* Traffic: weights once (of experts those that are reached), state as the mixer says, the residual stream in and out. A
  training step reads weights twice, writes gradients, and the optimizer reads and writes weight and two moments in
  float32; activations kept for the backward pass are not counted.

Source: Williams, Waterman and Patterson, "Roofline" (CACM 52(4), 2009).
"""

from functools import lru_cache

import torch

from nas.architecture import Architecture, Block, FfnOptions
from nas.architecture.ffns import MixtureOfDepths, Moe, NoFfn
from nas.architecture.mixers import MixerOptions, NoMixer
from nas.devices import DeviceSpec
from nas.measure.device import DTYPES
from nas.measurement import Measurement
from nas.parts import (
    active_parameters,
    ffn_flops,
    ffn_parameters,
    ffn_state_bytes,
    mixer_flops,
    mixer_parameters,
    mixer_traffic,
    own_parameters,
)
from nas.workload import Decode, Phase, Prefill, TrainStep, lengthened

BACKWARD = 3
OPTIMIZER_TRAFFIC = 2 + 1 + 6
"""Per weight, in numbers of four bytes: read twice, gradient written, weight and two moments read and written."""


def roofline(architecture: Architecture, phase: Phase, spec: DeviceSpec, dtype: str) -> Measurement:
    """The bound for one phase of a network in milliseconds."""
    d_model = architecture.d_model
    total = ends_bound(d_model, architecture.vocab_size, architecture.tie_embeddings, phase, spec, dtype)
    phase = lengthened(phase, architecture.num_meta_tokens)
    for block, times in architecture.distinct_blocks:
        for flops, moved in block_work(block, d_model, phase, DTYPES[dtype]):
            total += times * spec.milliseconds(flops, moved, dtype)
    note = f"roofline of {spec.name}, {dtype}"
    return Measurement(value=total, unit="ms", low=total, high=total, n=1, source="estimate", notes=(note,))


def part_bound(part: MixerOptions | FfnOptions, d_model: int, phase: Phase, spec: DeviceSpec, dtype: str) -> float:
    """The bound of one mixer or FFN with its norm, in milliseconds; 0 for none."""
    if isinstance(part, NoMixer | NoFfn):
        return 0.0
    flops, moved = part_work(part, d_model, phase, DTYPES[dtype])
    return spec.milliseconds(flops, moved, dtype)


@lru_cache(maxsize=16384)
def block_work(block: Block, d_model: int, phase: Phase, dtype: torch.dtype) -> tuple[tuple[float, float], ...]:
    """(FLOPs, bytes moved) of the mixer, of the FFN and of what each use of a block has for itself; no absent ones."""
    parts = [part for part in (block.mixer, block.ffn) if not isinstance(part, NoMixer | NoFfn)]
    works = [part_work(part, d_model, phase, dtype) for part in parts]
    return (*works, own_work(block, d_model, phase, dtype)) if block.has_own else tuple(works)


def own_work(block: Block, d_model: int, phase: Phase, dtype: torch.dtype) -> tuple[float, float]:
    """(FLOPs, bytes moved) of what each use of a block has for itself."""
    weights = own_parameters(block, d_model)
    batch, tokens, _ = shape_of(phase)
    if isinstance(phase, TrainStep):
        return BACKWARD * 2 * batch * tokens * weights, OPTIMIZER_TRAFFIC * 4 * weights
    return 2 * batch * tokens * weights, weights * dtype.itemsize


@lru_cache(maxsize=16384)
def part_work(part: MixerOptions | FfnOptions, d_model: int, phase: Phase, dtype: torch.dtype) -> tuple[float, float]:
    """(FLOPs, bytes moved) of a part in a phase."""
    batch, tokens, context = shape_of(phase)
    weight_size, training = (4, True) if isinstance(phase, TrainStep) else (dtype.itemsize, False)
    if isinstance(part, MixerOptions):
        weights = mixer_parameters(part, d_model)
        flops = batch * mixer_flops(part, d_model, tokens, context)
        state = batch * mixer_traffic(part, d_model, tokens, context, dtype)
    else:
        weights = reached_parameters(part, d_model, batch * tokens)
        flops = ffn_flops(part, d_model, batch * tokens)
        state = 2 * batch * ffn_state_bytes(part, d_model, dtype)
    stream = 2 * batch * tokens * d_model * dtype.itemsize
    if training:
        all_weights = weights if isinstance(part, MixerOptions) else ffn_parameters(part, d_model)
        return BACKWARD * flops, OPTIMIZER_TRAFFIC * 4 * all_weights + BACKWARD * (state + stream)
    return flops, weights * weight_size + state + stream


def ends_bound(d_model: int, vocab: int, tied: bool, phase: Phase, spec: DeviceSpec, dtype: str) -> float:
    """The bound of embedding, last norm and head: the head runs for the tokens whose logits are asked for."""
    batch, tokens, _ = shape_of(phase)
    if isinstance(phase, TrainStep):
        flops = BACKWARD * 2 * batch * tokens * vocab * d_model
        moved = OPTIMIZER_TRAFFIC * 4 * vocab * d_model * (1 if tied else 2)
    else:
        flops = 2 * batch * vocab * d_model
        moved = (vocab + batch * tokens) * d_model * DTYPES[dtype].itemsize
    return spec.milliseconds(flops, moved, dtype)


def reached_parameters(ffn: FfnOptions, d_model: int, tokens: int) -> float:
    """Parameters of an FFN that so many tokens use, experts balanced: no more than there are, no fewer than of one."""
    everything, of_one = ffn_parameters(ffn, d_model), active_parameters(ffn, d_model)
    if isinstance(ffn, MixtureOfDepths):
        return min(everything, of_one + (everything - of_one) * (tokens - 1) / (ffn.one_in - 1))
    if not isinstance(ffn, Moe):
        return everything
    reached = min(ffn.num_experts, tokens * ffn.top_k)
    an_expert = (everything - of_one) / max(1, ffn.num_experts - ffn.top_k)
    return everything - (ffn.num_experts - reached) * an_expert


def shape_of(phase: Phase) -> tuple[int, int, int]:
    """(sequences, new tokens of each, tokens that each held before)."""
    if isinstance(phase, Decode):
        return phase.batch, 1, phase.context
    if isinstance(phase, Prefill):
        return phase.batch, phase.prompt, 0
    return phase.batch, phase.tokens, 0
