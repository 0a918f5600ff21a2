"""The definition of the matrix recurrence against the published layers that it stands for, as others wrote them.

Where flash-linear-attention can be imported, transformers calls its kernels instead of its own PyTorch code, and so has
a process of its own; the naive functions are read without their package (`tests/fla_naive.py`).
"""

import os
import subprocess
import sys

import torch

from kernels._matrix_recurrence import matrix_recurrence
from kernels.backend import use_backend
from tests.fla_naive import naive
from tests.kernels.closeness import assert_close_relative

B, T, H, K, V = 1, 20, 2, 16, 24


def random_inputs():
    torch.manual_seed(0)
    unit = torch.nn.functional.normalize
    return {
        "q": torch.randn(B, T, H, K), "k": unit(torch.randn(B, T, H, K), dim=-1), "v": torch.randn(B, T, H, V),
        "head": -torch.rand(B, T, H), "channel": -torch.rand(B, T, H, K), "beta": torch.rand(B, T, H),
        "p": unit(torch.randn(B, T, H, K), dim=-1), "rate": torch.rand(B, T, H, K), "write": torch.rand(B, T, H, V),
        "u": torch.randn(H, K), "gate": torch.randn(B, T, H), "state": torch.randn(B, H, K, V),
    }  # fmt: skip


def ask(program, given, tmp_path):
    """What the program, which is given `x` and fills `answers`, answers in a process without the interpreter."""
    torch.save(given, tmp_path / "given.pt")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    wrapped = (
        f"import sys, torch\nx, answers = torch.load(sys.argv[1]), {{}}\n{program}\ntorch.save(answers, sys.argv[2])"
    )
    command = [sys.executable, "-c", wrapped, str(tmp_path / "given.pt"), str(tmp_path / "answers.pt")]
    finished = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert finished.returncode == 0, finished.stderr
    return torch.load(tmp_path / "answers.pt")


def assert_all_close(answers, settings):
    """`settings` gives for each layer the arguments beside q, k, v (which it may change) and the initial state."""
    assert set(answers) == set(settings)
    for layer, (expected, expected_state) in answers.items():
        with use_backend("reference"):
            out, state = matrix_recurrence(**settings[layer], return_state=True)
        try:
            assert_close_relative(out, expected, 1e-5)
            assert_close_relative(state, expected_state, 1e-5)
        except AssertionError as error:
            raise AssertionError(f"{layer}: {error}") from None


def naive_layers(x):
    """What flash-linear-attention computes of them, output and last state by layer."""

    def head_first(function, *tensors, **options):
        out, state = function(*(t.transpose(1, 2) if t.ndim > 2 else t for t in tensors), **options)
        return out.transpose(1, 2), state

    q, k, v, head, channel, beta, p = (x[name] for name in ("q", "k", "v", "head", "channel", "beta", "p"))
    start = {"initial_state": x["state"], "output_final_state": True}
    dplr, comba = naive("generalized_delta_rule/dplr").dplr_recurrence, naive("comba")
    product = naive("gated_delta_product").naive_recurrent_gated_delta_product
    rwkv6 = naive("rwkv6", "recurrent_naive").naive_recurrent_rwkv6
    return {
        "simple GLA": naive("simple_gla").naive_recurrent_simple_gla(q, k, v, head, **start),
        "GLA": naive("gla").naive_recurrent_gla(q, k, v, channel, **start),
        "gated DeltaNet": naive("gated_delta_rule").naive_recurrent_gated_delta_rule(q, k, v, beta, head, **start),
        "KDA": naive("kda").naive_recurrent_kda(q, k, v, channel, beta, **start),
        "RWKV-6": head_first(rwkv6, q, k, v, channel, x["u"], **start),
        "RWKV-7": head_first(dplr, q, k, v, -p, p * x["rate"], channel, **start),
        "Comba, decayed": comba.naive_recurrent_comba(q, k, v, p, beta, head, **start),
        "Comba, undecayed": comba.naive_chunk_comba(q, k, v, p, head, beta, chunk_size=16, **start),
        "GDN-2": naive("gdn2").naive_recurrent_gdn2(q, k, v, channel, x["rate"], x["write"], **start),
        "gated DeltaProduct": product(q[:, 1::2], k, v, head[:, ::2], beta, K**-0.5, **start, num_householder=2),
    }


def our_layers(x):
    """The same of the definition."""
    q, k, v, head, channel, beta, p = (x[name] for name in ("q", "k", "v", "head", "channel", "beta", "p"))
    common = {"q": q, "k": k, "v": v, "initial_state": x["state"], "return_state": True}
    strength, first = beta[..., None], torch.arange(T)[:, None] % 2 == 0
    comba = common | {"k": strength * k, "log_decay": head}
    settings = {
        "simple GLA": common | {"log_decay": head},
        "GLA": common | {"log_decay": channel},
        "gated DeltaNet": common | {"log_decay": head, "beta": beta},
        "KDA": common | {"log_decay": channel, "beta": beta},
        "RWKV-6": common | {"log_decay": channel, "bonus": x["u"]},
        "RWKV-7": common | {"log_decay": channel, "erase": (-p, p * x["rate"])},
        "Comba, decayed": comba | {"erase": (p * head.exp()[..., None], -strength * k)},
        "Comba, undecayed": comba | {"erase": (p, -strength * k)},
        "GDN-2": common | {"v": x["write"] * v, "log_decay": channel, "erase": (x["rate"] * k * channel.exp(), -k)},
        "gated DeltaProduct": common | {"log_decay": head * first, "beta": beta},
    }
    with use_backend("reference"):
        answers = {layer: matrix_recurrence(**setting) for layer, setting in settings.items()}
    out, state = answers["gated DeltaProduct"]  # a layer of two steps a token is read after the second
    return answers | {"gated DeltaProduct": (out[:, 1::2], state)}


def test_the_definition_and_its_gradients_agree_with_the_naive_functions_of_flash_linear_attention():
    x = {name: tensor.requires_grad_() for name, tensor in random_inputs().items()}
    theirs, ours = naive_layers(x), our_layers(x)
    assert set(ours) == set(theirs)
    for layer, answer in theirs.items():
        weights = [torch.randn(one.shape) for one in answer]
        values_and_gradients = []
        for values in (ours[layer], answer):
            loss = sum((one * weight).sum() for one, weight in zip(values, weights, strict=True))
            grads = torch.autograd.grad(loss, list(x.values()), retain_graph=True, materialize_grads=True)
            values_and_gradients.append((*values, *grads))
        for name, actual, expected in zip(("o", "S", *x), *values_and_gradients, strict=True):
            try:
                assert_close_relative(actual, expected, 1e-5)
            except AssertionError as error:
                raise AssertionError(f"{layer}, {name}: {error}") from None


TRANSFORMERS = """
sys.modules["fla"] = None
import transformers
from transformers.models.kimi_linear.modeling_kimi_linear import chunk_kimi_delta_attention
from transformers.models.mamba2.modeling_mamba2 import mamba2_chunk_scan
from transformers.models.minimax.modeling_minimax import MiniMaxConfig, MiniMaxLightningAttention
from transformers.models.qwen3_next.modeling_qwen3_next import torch_chunk_gated_delta_rule
from transformers.models.xlstm.modeling_xlstm import mlstm_recurrent_sequence_native

q, k, v, head, channel, beta = (x[name] for name in ("q", "k", "v", "head", "channel", "beta"))
start = {"chunk_size": 8, "initial_state": x["state"], "output_final_state": True}
answers["gated DeltaNet"] = torch_chunk_gated_delta_rule(q, k, v, g=head, beta=beta, **start)
answers["KDA"] = chunk_kimi_delta_attention(q, k, v, channel, beta, **start)
out, state = mamba2_chunk_scan(
    v, beta, -torch.arange(1.0, 3.0), k, q, 8, initial_states=x["state"].mT.contiguous(), return_final_states=True)
answers["Mamba-2"] = out, state.mT
h, (c, n, m) = mlstm_recurrent_sequence_native(
    *(t.transpose(1, 2) for t in (q, k, v, x["gate"], 2 * x["gate"])), eps=0.0, return_last_states=True)
answers["mLSTM"] = h.transpose(1, 2), torch.cat((c, n[..., None]), -1) * m[..., None].exp()
config = MiniMaxConfig(hidden_size=32, num_attention_heads=2, head_dim=16, num_hidden_layers=2, block_size=8,
                       layer_types=["linear_attention"] * 2)
layer = MiniMaxLightningAttention(config, 0)
layer.norm = layer.out_proj = torch.nn.Identity()
torch.nn.init.zeros_(layer.output_gate.weight)  # half of the output passes
qkv = layer.act_fn(layer.qkv_proj(x["hidden"])).unflatten(-1, (2, 48))
out, state = layer(x["hidden"], None, None)
answers["Lightning"] = (2 * out).unflatten(-1, (2, 16)).detach(), state.detach()
answers["of Lightning"] = (*qkv.detach().split(16, -1), -layer.slope_rate.flatten())
"""


def test_the_definition_agrees_with_the_layers_of_transformers(tmp_path):
    x = random_inputs() | {"hidden": torch.randn(B, T, 32)}
    answers = ask(TRANSFORMERS, x, tmp_path)
    q, k, v, head, beta = (x[name] for name in ("q", "k", "v", "head", "beta"))
    common = {"q": q, "k": k, "v": v, "initial_state": x["state"]}
    lightning = dict(zip(("q", "k", "v", "log_decay"), answers.pop("of Lightning"), strict=True))
    h, state = answers.pop("mLSTM")
    settings = {
        "gated DeltaNet": common | {"log_decay": head, "beta": beta},
        "KDA": common | {"log_decay": x["channel"], "beta": beta},
        "Mamba-2": common | {"v": beta[..., None] * v, "log_decay": -beta * torch.arange(1.0, 3.0), "scale": 1.0},
        "Lightning": lightning | {"scale": 1.0},
    }
    assert_all_close(answers, settings)

    ones = torch.cat((v, torch.ones(B, T, H, 1)), -1)
    decay = torch.nn.functional.logsigmoid(2 * x["gate"])
    out, last = matrix_recurrence(q, x["gate"].exp()[..., None] * k, ones, log_decay=decay, return_state=True)
    assert_close_relative(out[..., :-1] / out[..., -1:].abs().clamp_min(1), h, 1e-5)
    assert_close_relative(last, state, 1e-5)
