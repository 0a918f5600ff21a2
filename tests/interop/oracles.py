"""Tiny models of transformers with random weights, as oracles: saved to a directory, run on the CPU."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

VOCAB = 61
BATCH, TOKENS, NEW_TOKENS = 2, 23, 20


@dataclass(frozen=True)
class Oracle:
    """A class of transformers and the options of a tiny model of it."""

    name: str
    options: dict[str, Any]

    def build(self) -> nn.Module:
        """In evaluation mode, with weights at which every path matters."""
        import transformers

        with without_fla():
            model_class = getattr(transformers, f"{self.name.removesuffix('Text')}ForCausalLM")
        config = getattr(transformers, f"{self.name}Config")(
            **{"vocab_size": VOCAB, "pad_token_id": None, **self.options}
        )
        config._attn_implementation = "eager"
        torch.manual_seed(0)
        model = model_class(config).eval()
        randomise(model)
        return model


@contextmanager
def without_fla() -> Iterator[None]:
    """While on, importing a model's code finds no fla, so that the model runs the PyTorch code of transformers."""
    kept = sys.modules.get("fla")
    sys.modules["fla"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        if kept is None:
            del sys.modules["fla"]
        else:
            sys.modules["fla"] = kept


def randomise(model: nn.Module) -> None:
    """Matrices of about unit gain, vectors moved off their defaults; decay rates stay of the published size."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "A_log" in name or "conv1d" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
            elif parameter.ndim >= 2:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
            else:
                parameter.add_(0.3 * torch.randn_like(parameter))


def saved(model: nn.Module, directory: Path, **options: Any) -> Path:
    """As `save_pretrained` leaves it."""
    model.save_pretrained(directory, **options)  # type: ignore[operator]
    return directory


def saved_gradients(model: nn.Module, directory: Path) -> Path:
    """The same directory with every weight replaced by its gradient."""
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.copy_(parameter.grad)
    return saved(model, directory)


def with_zeros(directory: Path, target: Path) -> Path:
    """The same directory with zeros for weights."""
    target.mkdir()
    (target / "config.json").write_text((directory / "config.json").read_text())
    weights = {name: torch.zeros_like(t) for name, t in load_file(directory / "model.safetensors").items()}
    save_file(weights, target / "model.safetensors")
    return target


def tokens() -> Tensor:
    return torch.randint(VOCAB, (BATCH, TOKENS), generator=torch.Generator().manual_seed(1))


_SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4, "head_dim": 16}
_WIDE = {name: value for name, value in _SMALL.items() if name != "head_dim"} | {"hidden_size": 64}
LAYERS = ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]


def _rope(kind: str = "default", theta: float = 500.0, **more: Any) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": theta, **more}


_GRANITE_HYBRID = {
    **{**_WIDE, "num_key_value_heads": 2, "layer_types": ["mamba", "attention", "attention", "mamba"]},
    **{"mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 2, "mamba_chunk_size": 8},
    **{"num_local_experts": 5, "num_experts_per_tok": 2, "shared_intermediate_size": 96, "attention_multiplier": 0.3},
    **{"residual_multiplier": 0.4, "embedding_multiplier": 3.0, "logits_scaling": 2.0},
}
_FALCON = {
    **{**_SMALL, "num_key_value_heads": 2, "mamba_n_heads": 4, "mamba_d_head": 12, "mamba_d_ssm": 48},
    **{"mamba_d_state": 8, "mamba_chunk_size": 8, "key_multiplier": 0.7, "attention_in_multiplier": 1.3},
    **{"attention_out_multiplier": 0.6, "ssm_in_multiplier": 0.8, "ssm_out_multiplier": 1.4},
    **{"ssm_multipliers": [0.5, 1.2, 0.9, 1.1, 0.7], "mlp_multipliers": [0.7, 1.2]},
    **{"embedding_multiplier": 2.0, "lm_head_multiplier": 0.5, "rope_parameters": _rope()},
}

ORACLES: dict[str, Oracle] = {
    "llama": Oracle("Llama", {**_SMALL, "num_key_value_heads": 2, "rms_norm_eps": 1e-5}),
    "llama odd": Oracle(
        "Llama",
        {
            **_SMALL,
            "hidden_size": 36,
            "num_attention_heads": 6,
            "num_key_value_heads": 3,
            "head_dim": 20,
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
            "hidden_act": "gelu",
            "rope_parameters": _rope(
                "llama3",
                factor=4.0,
                low_freq_factor=1.0,
                high_freq_factor=4.0,
                original_max_position_embeddings=16,
            ),
        },
    ),
    "llama stretched": Oracle("Llama", {**_SMALL, "rope_parameters": _rope("linear", factor=3.0)}),
    "mistral": Oracle("Mistral", {**_SMALL, "num_key_value_heads": 1, "sliding_window": 5}),
    "mistral whole": Oracle(
        "Mistral", {**_SMALL, "num_key_value_heads": 4, "sliding_window": None, "tie_word_embeddings": True}
    ),
    "mixtral": Oracle(
        "Mixtral",
        {**_SMALL, "num_key_value_heads": 2, "num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 6},
    ),
    "qwen2": Oracle("Qwen2", {**_WIDE, "num_key_value_heads": 2}),
    "gemma2": Oracle(
        "Gemma2",
        {
            **_SMALL,
            "num_key_value_heads": 2,
            "layer_types": LAYERS,
            "sliding_window": 5,
            "query_pre_attn_scalar": 20,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 3.0,
            "rope_parameters": _rope(),
        },
    ),
    "qwen3": Oracle(
        "Qwen3",
        {
            **_SMALL,
            "num_key_value_heads": 2,
            "use_sliding_window": True,
            "sliding_window": 5,
            "layer_types": LAYERS,
            "rope_parameters": _rope("yarn", factor=4.0, original_max_position_embeddings=16),
        },
    ),
    "qwen3 experts": Oracle(
        "Qwen3Moe",
        {
            **_SMALL,
            "num_key_value_heads": 2,
            "num_experts": 5,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 24,
            "mlp_only_layers": [1],
            "norm_topk_prob": True,
        },
    ),
    "olmo2": Oracle("Olmo2", {**_WIDE, "num_key_value_heads": 2}),
    "olmoe": Oracle("Olmoe", {**_WIDE, "num_key_value_heads": 4, "num_experts": 4, "num_experts_per_tok": 2}),
    "cohere": Oracle("Cohere", {**_WIDE, "num_key_value_heads": 2, "logit_scale": 0.25, "layer_norm_eps": 1e-3}),
    "granite": Oracle(
        "Granite",
        {
            **_WIDE,
            "num_key_value_heads": 2,
            "attention_multiplier": 0.3,
            "residual_multiplier": 0.4,
            "embedding_multiplier": 3.0,
            "logits_scaling": 2.0,
        },
    ),
    "gpt_oss": Oracle(
        "GptOss",
        {
            **_SMALL,
            "num_key_value_heads": 2,
            "layer_types": LAYERS,
            "sliding_window": 5,
            "num_local_experts": 5,
            "num_experts_per_tok": 2,
            "swiglu_limit": 0.7,
            "rope_parameters": _rope("yarn", factor=4.0, original_max_position_embeddings=16, truncate=False),
        },
    ),
    "mamba": Oracle("Mamba", {"hidden_size": 32, "num_hidden_layers": 3, "state_size": 5, "time_step_rank": 3}),
    "mamba odd": Oracle(
        "Mamba",
        {
            **{"hidden_size": 36, "num_hidden_layers": 2, "state_size": 4, "conv_kernel": 3, "use_bias": True},
            **{"use_conv_bias": False, "expand": 1, "tie_word_embeddings": False},
        },
    ),
    "falcon_mamba": Oracle("FalconMamba", {"hidden_size": 32, "num_hidden_layers": 3, "state_size": 4}),
    "mamba2": Oracle(
        "Mamba2",
        {
            **{"hidden_size": 32, "num_hidden_layers": 3, "state_size": 8, "num_heads": 4, "head_dim": 16},
            **{"n_groups": 2, "chunk_size": 8},
        },
    ),
    "mamba2 odd": Oracle(
        "Mamba2",
        {
            **{"hidden_size": 36, "num_hidden_layers": 2, "state_size": 6, "num_heads": 6, "head_dim": 12},
            **{"n_groups": 1, "chunk_size": 16, "use_bias": True, "conv_kernel": 3, "tie_word_embeddings": True},
        },
    ),
    "jamba": Oracle(
        "Jamba",
        {
            **{**_WIDE, "num_hidden_layers": 5, "num_key_value_heads": 2, "num_experts": 4},
            **{"attn_layer_period": 3, "attn_layer_offset": 1, "mamba_d_state": 4, "mamba_dt_rank": 5},
            **{"expert_layer_period": 2, "expert_layer_offset": 1},
        },
    ),
    "bamba": Oracle(
        "Bamba",
        {
            **{**_WIDE, "num_key_value_heads": 2, "attn_layer_indices": [1, 2], "mamba_n_heads": 8},
            **{"mamba_d_head": 16, "mamba_d_state": 8, "mamba_n_groups": 2, "mamba_chunk_size": 8},
        },
    ),
    "granite hybrid": Oracle("GraniteMoeHybrid", _GRANITE_HYBRID),
    "granite hybrid dense": Oracle(
        "GraniteMoeHybrid", {**_GRANITE_HYBRID, "num_local_experts": 0, "position_embedding_type": "rope"}
    ),
    "falcon_h1": Oracle("FalconH1", _FALCON),
    "falcon_h1 normed": Oracle(
        "FalconH1", {**_FALCON, "mamba_rms_norm": True, "mamba_norm_before_gate": False, "mamba_n_groups": 2}
    ),
    "falcon_h1 normed before": Oracle("FalconH1", {**_FALCON, "mamba_rms_norm": True, "tie_word_embeddings": True}),
    "nemotron_h": Oracle(
        "NemotronH",
        {
            **{"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2},
            **{"layers_block_type": ["mamba", "mlp", "attention", "moe", "mamba", "mlp"], "head_dim": 16},
            **{"mamba_num_heads": 4, "mamba_head_dim": 16, "ssm_state_size": 8, "n_groups": 2, "chunk_size": 8},
            **{"n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 16, "n_group": 3},
            **{"moe_shared_expert_intermediate_size": 32, "topk_group": 2, "routed_scaling_factor": 1.5},
            **{"time_step_min": 0.3},
        },
    ),
    "qwen3_next": Oracle(
        "Qwen3Next",
        {
            **{**_SMALL, "num_key_value_heads": 2, "linear_num_key_heads": 2, "linear_num_value_heads": 6},
            **{"layer_types": ["full_attention", "linear_attention", "linear_attention", "full_attention"]},
            **{"linear_key_head_dim": 8, "linear_value_head_dim": 12, "num_experts": 5, "num_experts_per_tok": 2},
            **{"moe_intermediate_size": 16, "shared_expert_intermediate_size": 32, "mlp_only_layers": [2]},
            **{"rope_parameters": _rope(partial_rotary_factor=0.5)},
        },
    ),
    "lfm2": Oracle(
        "Lfm2",
        {
            **{**_WIDE, "num_key_value_heads": 2, "block_multiple_of": 8, "rope_parameters": _rope()},
            **{"layer_types": ["conv", "full_attention", "conv", "conv"], "conv_bias": True, "conv_L_cache": 4},
        },
    ),
    "gemma3": Oracle(
        "Gemma3Text",
        {
            **_SMALL,
            "num_key_value_heads": 1,
            "layer_types": LAYERS,
            "sliding_window": 5,
            "query_pre_attn_scalar": 24,
            "final_logit_softcapping": 3.0,
            "rope_parameters": {"full_attention": _rope("linear", factor=2.0), "sliding_attention": _rope(theta=50.0)},
        },
    ),
}
