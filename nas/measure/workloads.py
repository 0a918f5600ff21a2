"""What a deployed network is asked to do, each phase as one call that can be timed or weighed again and again.

A phase is measured alone. Decoding starts from a state filled as if the context had been read, without running the
prompt, and stays at that context: every sample is the same work.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from nas.measure.random_model import random_state
from nas.model import DecodeState, Model
from nas.workload import Workload


@dataclass(frozen=True)
class Phases:
    """The phases of one workload on one model. Token ids are random; logits are thrown away."""

    model: Model
    workload: Workload
    device: torch.device

    def read_prompt(self) -> object:
        """Prefill of a batch of prompts into a fresh state; returns the state."""
        batch, prompt = self.workload.batch, self.workload.prompt
        state = self.model.init_state(batch, self.workload.capacity)
        _, state = self.model.prefill(self.tokens(batch, prompt), state)
        return state

    def read_context(self) -> DecodeState:
        """The state of a batch that has read the context."""
        return random_state(self.model, self.workload)

    def decoding(self, state: DecodeState) -> Callable[[], object]:
        """A call that decodes one token for each sequence of a batch from `state`, always at the context."""
        tokens = self.tokens(self.workload.batch)

        def step() -> object:
            nonlocal state
            _, state = self.model.step(tokens, state)
            state.position = self.workload.context
            return state

        return step

    def tokens(self, *shape: int) -> torch.Tensor:
        return torch.randint(self.model.embedding.num_embeddings, shape, device=self.device)
