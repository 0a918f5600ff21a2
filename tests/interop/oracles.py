"""Tiny models of transformers with random weights, as oracles: saved to a directory, run on the CPU."""

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

        config = getattr(transformers, f"{self.name}Config")(
            **{"vocab_size": VOCAB, "pad_token_id": None, **self.options}
        )
        config._attn_implementation = "eager"
        torch.manual_seed(0)
        model = getattr(transformers, f"{self.name.removesuffix('Text')}ForCausalLM")(config).eval()
        randomise(model)
        return model


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
