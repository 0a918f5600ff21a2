"""Tiny models of transformers with random weights, as oracles: saved to a directory, run on the CPU."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
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


def tokens() -> Tensor:
    return torch.randint(VOCAB, (BATCH, TOKENS), generator=torch.Generator().manual_seed(1))
