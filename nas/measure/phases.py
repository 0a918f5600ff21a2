"""Each phase of a workload as one call that can be timed or weighed again and again, on a model that is ready for it.

Decoding starts from a state filled as if the context had been read, without running a prompt, and stays at that
context: every sample is the same work. Buffers of the state are made once, as a server does.
"""

from collections.abc import Callable
from contextlib import nullcontext

import torch

from nas.context import Context
from nas.losses import loss_of
from nas.measure.random_model import random_state
from nas.model import Model
from nas.workload import Decode, Phase, Prefill, TrainStep

Call = Callable[[], object]


def phase_call(model: Model, phase: Phase, device: torch.device) -> Call:
    """The phase on this model. Token ids are random; what comes out is thrown away."""
    if isinstance(phase, TrainStep):
        return train_step(model, phase, device)
    # Inference tensors may not be written to outside of inference mode, so each call enters it itself.
    with torch.inference_mode():
        return prefill(model, phase, device) if isinstance(phase, Prefill) else decode(model, phase, device)


def prefill(model: Model, phase: Prefill, device: torch.device) -> Call:
    tokens = random_tokens(model, device, phase.batch, phase.prompt)
    state = model.init_state(phase.batch, phase.prompt)

    def read() -> object:
        with torch.inference_mode():
            return model.prefill(tokens, state)[0]

    return read


def decode(model: Model, phase: Decode, device: torch.device) -> Call:
    tokens = random_tokens(model, device, phase.batch)
    state = random_state(model, phase)

    def step() -> object:
        # The state that comes back is dropped: the next sample decodes the same token from the same state.
        with torch.inference_mode():
            return model.step(tokens, state)[0]

    return step


def train_step(model: Model, phase: TrainStep, device: torch.device) -> Call:
    """As training does it: no logits of all tokens at once, weights in float32, products in bfloat16 on a GPU.

    AdamW has a rate of zero, so that nothing drifts.
    """
    model.train()
    loss = training_loss(model, phase, device)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)

    def step() -> object:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return optimizer

    return step


def training_loss(model: Model, phase: TrainStep, device: torch.device) -> Callable[[], torch.Tensor]:
    """The forward half of a training step: the loss of random tokens, to which every auxiliary loss is added."""
    function = loss_of(model.mask_token)
    # A causal model reads all but the last of the tokens that it is asked about, the other reads that one too.
    text = torch.randint(model.vocab_size, (phase.batch, phase.tokens + (1 if model.causal else 0)))
    question = function.ask(text[:, :-1], text[:, 1:], torch.Generator().manual_seed(0)).to(device)

    def forward() -> torch.Tensor:
        context = Context()
        half = torch.autocast("cuda", dtype=torch.bfloat16) if device.type == "cuda" else nullcontext()
        with half:
            x_btd, head_vd = model.before_head(question.tokens, context)
            loss, _ = function(x_btd, head_vd, question, model.logits_soft_cap)
            return loss + sum(context.losses, torch.zeros((), device=device))

    return forward


def random_tokens(model: Model, device: torch.device, *shape: int) -> torch.Tensor:
    return torch.randint(model.vocab_size, shape, device=device)
