"""The causal loss equals cross-entropy on the logits of the model, for one answer at a position and for several."""

import pytest
import torch
import torch.nn.functional as F

from nas.architecture import Architecture, Block
from nas.architecture.ffns import Glu
from nas.compile import compile_architecture
from nas.losses import causal


@pytest.mark.parametrize("options", [{}, {"tie_embeddings": False, "logits_scale": 0.5, "logits_soft_cap": 2.0}])
@pytest.mark.parametrize("answers", [None, 3])
def test_the_loss_is_cross_entropy_on_the_logits(options, answers):
    torch.manual_seed(0)
    model = compile_architecture(
        Architecture(name="a", d_model=16, vocab_size=24, blocks=(Block(ffn=Glu(d_ff=8)),), **options)
    )
    tokens = torch.randint(24, (2, 7))
    targets = torch.randint(24 // (answers or 1), (2, 7) if answers is None else (2, 7, answers))
    targets[0, :5] = -100
    logits = model(tokens)
    logits = logits if answers is None else logits.unflatten(-1, (answers, -1))
    expected = F.cross_entropy(logits.flatten(0, -2), targets.flatten())
    loss, metrics = causal(*model.before_head(tokens), targets, model.logits_soft_cap)
    torch.testing.assert_close(loss, expected)
    assert metrics["nats"] == loss.detach()
    parameters = list(model.parameters())
    found, right = (torch.autograd.grad(one, parameters) for one in (loss, expected))
    torch.testing.assert_close(found, right)
