"""What one part of a network costs, counted without allocating anything: parameters, FLOPs, bytes of state and traffic.

* Parts are built on the meta device (shapes, no data), each distinct one once; all counts of whole networks are sums of
  these, so that counting an architecture takes a fraction of a millisecond after the first few.
* Everything about an FFN is linear in its hidden width, so an FFN is built at two small widths and never again.
"""

from collections.abc import Callable
from dataclasses import fields, replace
from functools import lru_cache

import torch

from nas.architecture import Block, FfnOptions
from nas.architecture.mixers import MixerOptions
from nas.architecture.options import role_of
from nas.compile import build_ffn, build_mixer, build_own
from nas.ffns.base import Ffn
from nas.mixers.base import Mixer

WIDTHS = (8, 16)


@lru_cache(maxsize=16384)
def built_mixer(options: MixerOptions, d_model: int) -> Mixer | None:
    """The mixer on the meta device."""
    with torch.device("meta"):
        return build_mixer(options, d_model)


@lru_cache(maxsize=4096)
def built_ffn(options: FfnOptions, d_model: int) -> Ffn | None:
    """The FFN on the meta device."""
    with torch.device("meta"):
        return build_ffn(options, d_model)


@lru_cache(maxsize=16384)
def mixer_parameters(options: MixerOptions, d_model: int) -> int:
    """Parameters of a mixer and its norm; 0 for no mixer."""
    mixer = built_mixer(options, d_model)
    return 0 if mixer is None else d_model + sum(p.numel() for p in mixer.parameters())


@lru_cache(maxsize=16384)
def ffn_parameters(options: FfnOptions, d_model: int) -> int:
    """Parameters of an FFN and its norm; 0 for no FFN."""
    return linear_in_width(options, d_model, _all_parameters)


@lru_cache(maxsize=16384)
def parameters_per_width(options: FfnOptions, d_model: int) -> int:
    """Parameters that one more unit of an FFN's width adds."""
    return _line(with_width(options, WIDTHS[0]), d_model, _all_parameters)[1]


@lru_cache(maxsize=16384)
def active_parameters(options: FfnOptions, d_model: int) -> int:
    """Those of them that one token uses."""
    return linear_in_width(options, d_model, _active_parameters)


def ffn_flops(options: FfnOptions, d_model: int, tokens: int) -> int:
    """Two per multiply-accumulate, as `Ffn.flops`."""
    return tokens * linear_in_width(options, d_model, _flops_of_a_token)


@lru_cache(maxsize=16384)
def mixer_flops(options: MixerOptions, d_model: int, tokens: int, context_len: int) -> int:
    """Two per multiply-accumulate, as `Mixer.flops`."""
    mixer = built_mixer(options, d_model)
    return 0 if mixer is None else mixer.flops(tokens, context_len)


@lru_cache(maxsize=16384)
def mixer_state_bytes(options: MixerOptions, d_model: int, context_len: int, dtype: torch.dtype) -> int:
    """Bytes of the state of one sequence."""
    mixer = built_mixer(options, d_model)
    return 0 if mixer is None else mixer.state_bytes(context_len, dtype)


@lru_cache(maxsize=16384)
def ffn_state_bytes(options: FfnOptions, d_model: int, dtype: torch.dtype) -> int:
    """Bytes of the state of one sequence; its width does not matter."""
    ffn = built_ffn(with_width(options, WIDTHS[0]), d_model)
    return 0 if ffn is None else ffn.state_bytes(dtype)


@lru_cache(maxsize=16384)
def mixer_traffic(options: MixerOptions, d_model: int, tokens: int, context_len: int, dtype: torch.dtype) -> int:
    """Bytes of state that must be read and written for `tokens` tokens of one sequence after context_len others."""
    mixer = built_mixer(options, d_model)
    return 0 if mixer is None else mixer.state_traffic(tokens, context_len, dtype)


@lru_cache(maxsize=4096)
def own_parameters(block: Block, d_model: int) -> int:
    """Parameters that each use of a block has beside the weights of all its uses; each is read once per token."""
    if not block.has_own:
        return 0
    with torch.device("meta"):
        return sum(p.numel() for p in build_own(block, d_model).parameters())


def own_per_width(block: Block, d_model: int) -> int:
    """Those of them that one more unit of the FFN's width adds."""
    if not block.ffn_adapter_rank:
        return 0
    first, second = (own_parameters(replace(block, ffn=with_width(block.ffn, w)), d_model) for w in WIDTHS)
    return (second - first) // (WIDTHS[1] - WIDTHS[0])


def ffn_width(ffn: FfnOptions) -> int:
    """The hidden width of an FFN (of one expert), 0 without one."""
    name = width_option(type(ffn))
    return 0 if name is None else getattr(ffn, name)


@lru_cache(maxsize=16384)
def with_width(ffn: FfnOptions, width: int) -> FfnOptions:
    """The FFN at another hidden width; without one, as it is."""
    name = width_option(type(ffn))
    return ffn if name is None else replace(ffn, **{name: width})


@lru_cache
def width_option(kind: type[FfnOptions]) -> str | None:
    """The name of the option that holds an FFN's width; a kind has at most one."""
    names = [f.name for f in fields(kind) if role_of(kind, f.name) == "width"]
    assert len(names) <= 1, f"{kind.kind} has several widths: {names}"
    return names[0] if names else None


def linear_in_width(options: FfnOptions, d_model: int, number: Callable[[Ffn, int], int]) -> int:
    """A number of an FFN that is linear in its width, from two small widths."""
    first, slope = _line(with_width(options, WIDTHS[0]), d_model, number)
    return first + slope * (ffn_width(options) - WIDTHS[0])


@lru_cache(maxsize=4096)
def _line(narrow: FfnOptions, d_model: int, number: Callable[[Ffn, int], int]) -> tuple[int, int]:
    """(the number at the first of WIDTHS, what one more unit of width adds)."""
    values = []
    for width in WIDTHS:
        ffn = built_ffn(with_width(narrow, width), d_model)
        values.append(0 if ffn is None else number(ffn, d_model))
    return values[0], (values[1] - values[0]) // (WIDTHS[1] - WIDTHS[0])


def _all_parameters(ffn: Ffn, d_model: int) -> int:
    return d_model + sum(p.numel() for p in ffn.parameters())


def _active_parameters(ffn: Ffn, d_model: int) -> int:
    return d_model + ffn.active_parameters()


def _flops_of_a_token(ffn: Ffn, d_model: int) -> int:
    return ffn.flops(1)
