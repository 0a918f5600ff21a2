"""Training: the schedule, the groups, what `fit` promises about failures, interruptions, resuming and repeatability."""

import signal
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from nas.architecture import Architecture, Attention, Block, GatedDeltaNet, Glu, Mamba1, Moe
from nas.compile import compile_architecture
from nas.tasks import InContextRecallTask, RecallTask
from nas.training import NonFiniteLoss, Recipe, RecipeError, evaluate, fit, learning_rates, recipe_from
from nas.training import loop as loop_module
from nas.training.groups import group_layout, parameter_groups
from nas.training.ranks import leave_reason
from nas.training.rates import read_table
from nas.training.several import ERROR, failure

RATES = {"attention": 1e-2, "mamba1": 4e-2, "gated_deltanet": 1e-2}


@pytest.fixture
def task():
    return RecallTask(sequence_length=16, num_pairs=2, vocab_size=16, easier=0, score_sequences=32)


@pytest.fixture
def copying():
    """A task whose targets are the tokens that follow."""
    return InContextRecallTask(sequence_length=16, vocab_size=16, score_sequences=32)


def architecture_of(*mixers):
    blocks = tuple(Block(mixer=mixer, ffn=Glu(d_ff=16)) for mixer in mixers)
    return Architecture(d_model=16, vocab_size=16, blocks=blocks)


def model_of(*mixers, seed=0):
    return compile_architecture(architecture_of(*mixers), seed=seed)


ATTENTION = Attention(num_heads=1, head_dim=16)
CHOOSY = Moe(num_experts=2, top_k=1, d_ff=16, choice="experts")
DENOISER = Architecture(
    d_model=16,
    vocab_size=16,
    loss="masked_diffusion",
    blocks=(Block(mixer=replace(ATTENTION, direction="both"), ffn=CHOOSY),),
)


def groups_of(model, recipe):
    return parameter_groups(model, group_layout(model, recipe, RATES))


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def test_a_model_learns_and_reports_every_step(task):
    seen = []
    recipe = Recipe(tokens=60 * 8 * 16, batch_size=8)
    model = model_of(ATTENTION)
    before = evaluate(model, task, recipe)["recall_bits"].value
    result = fit(
        model, task, recipe, seed=0, learning_rates=RATES, on_step=lambda step, total, _: seen.append((step, total))
    )
    assert seen == [(step, 60) for step in range(1, 61)]
    assert (result.steps, result.tokens) == (60, 60 * 8 * 16)
    assert result.loss_curve[0][1] > result.final_loss
    assert evaluate(model, task, recipe)["recall_bits"].value < before


def test_the_same_seed_gives_the_same_weights_whatever_was_drawn_before(task):
    recipe = Recipe(tokens=5 * 4 * 16, batch_size=4)
    trained = []
    for draws in (0, 7):
        torch.rand(draws)
        model = model_of(ATTENTION)
        fit(model, task, recipe, seed=3, learning_rates=RATES)
        trained.append(weights(model))
    assert all(torch.equal(trained[0][name], trained[1][name]) for name in trained[0])


def test_a_loss_that_is_not_finite_ends_training_with_its_step(task):
    model = model_of(ATTENTION)
    with torch.no_grad():
        model.embedding.weight[3] = float("nan")
    with pytest.raises(NonFiniteLoss, match="step 1"):
        fit(model, task, Recipe(tokens=640, batch_size=8), seed=0, learning_rates=RATES)


def test_ctrl_c_leaves_fit_as_keyboard_interrupt_and_works_again(task):
    def interrupt(step, total, loss):
        if step == 2:
            signal.raise_signal(signal.SIGINT)

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            fit(model_of(ATTENTION), task, Recipe(tokens=6400, batch_size=8), seed=0, learning_rates=RATES,
                on_step=interrupt)  # fmt: skip
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_exit_that_is_no_ctrl_c_stays_an_exit(task):
    with pytest.raises(SystemExit):
        fit(model_of(ATTENTION), task, Recipe(tokens=640, batch_size=8), seed=0, learning_rates=RATES,
            on_step=lambda *_: sys.exit(3))  # fmt: skip


def test_a_model_that_denoises_learns(copying):
    recipe = Recipe(tokens=60 * 8 * 16, batch_size=8)
    model = compile_architecture(DENOISER, seed=0)
    name = copying.metrics[1].name
    before = evaluate(model, copying, recipe)[name].value
    fit(model, copying, recipe, seed=0, learning_rates=RATES)
    assert evaluate(model, copying, recipe)[name].value < before - 0.1


@pytest.mark.parametrize("architecture", [architecture_of(ATTENTION), DENOISER], ids=lambda one: one.loss)
def test_a_run_that_was_cut_off_ends_where_an_uncut_one_does(architecture, copying, tmp_path, monkeypatch):
    monkeypatch.setattr(loop_module, "RESUME_SECONDS", 0.0)
    recipe, task = Recipe(tokens=12 * 4 * 16, batch_size=4), copying
    uncut = compile_architecture(architecture, seed=0)
    whole = fit(uncut, task, recipe, seed=0, learning_rates=RATES)

    def crash(step, total, loss):
        if step == 6:
            raise RuntimeError("power cut")

    path = tmp_path / "run.ckpt"
    with pytest.raises(RuntimeError, match="power cut"):
        model = compile_architecture(architecture, seed=0)
        fit(model, task, recipe, seed=0, learning_rates=RATES, on_step=crash, resume_path=path)
    assert path.exists()
    model = compile_architecture(architecture, seed=9)
    result = fit(model, task, recipe, seed=0, learning_rates=RATES, resume_path=path)
    assert result.loss_curve == whole.loss_curve
    assert not path.exists()
    for name, value in weights(uncut).items():
        torch.testing.assert_close(weights(model)[name], value)


def test_a_checkpoint_that_cannot_be_read_is_put_away_and_training_starts_anew(task, tmp_path):
    path = tmp_path / "torn.ckpt"
    path.write_bytes(b"PK half a checkpoint")
    recipe = Recipe(tokens=4 * 4 * 16, batch_size=4)
    whole = fit(model_of(ATTENTION), task, recipe, seed=0, learning_rates=RATES)
    result = fit(model_of(ATTENTION), task, recipe, seed=0, learning_rates=RATES, resume_path=path)
    assert result.loss_curve == whole.loss_curve
    (note,) = result.notes
    assert "torn.ckpt cannot be read" in note and note.endswith("training starts anew")
    assert not path.exists()


def test_a_full_disk_costs_the_checkpoint_and_not_the_training(task, tmp_path, monkeypatch):
    monkeypatch.setattr(loop_module, "RESUME_SECONDS", 0.0)

    def full(self, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(loop_module.pl.Trainer, "save_checkpoint", full)
    recipe = Recipe(tokens=4 * 4 * 16, batch_size=4)
    result = fit(model_of(ATTENTION), task, recipe, seed=0, learning_rates=RATES, resume_path=tmp_path / "a" / "x.ckpt")
    assert result.steps == 4
    (note,) = result.notes
    assert "No space left on device" in note and note.endswith("what would go on from it starts anew")


def test_a_training_that_went_up_rungs_ends_where_an_uninterrupted_one_does(task, tmp_path):
    recipe = Recipe(tokens=20 * 4 * task.sequence_length, batch_size=4, schedule="wsd", warmup=0.1, decay=0.3)
    whole, rungs, branch = model_of(ATTENTION), model_of(ATTENTION), tmp_path / "branch.ckpt"
    result = fit(whole, task, recipe, seed=3, learning_rates=RATES)
    reached = None
    for share, first_step in ((0.25, 1), (0.5, 4), (1.0, 8)):  # each goes on where the decay before it began
        steps = []
        rungs = model_of(ATTENTION)
        reached = fit(
            *(rungs, task, recipe),
            seed=3,
            learning_rates=RATES,
            share=share,
            branch_path=branch,
            on_step=lambda step, *_, steps=steps: steps.append(step),
        )
        assert (steps[0], steps[-1], reached.steps) == (first_step, round(20 * share), round(20 * share))
    assert all(torch.equal(weight, weights(rungs)[name]) for name, weight in weights(whole).items())
    assert reached is not None and reached.loss_curve == result.loss_curve


def test_two_devices_train_the_same_model_as_one(task, tmp_path):
    recipe = Recipe(tokens=12 * 4 * task.sequence_length, batch_size=4)
    one, two, steps = model_of(ATTENTION), model_of(ATTENTION), []
    alone = fit(one, task, recipe, seed=3, learning_rates=RATES, device="cpu")
    both = fit(
        *(two, task, recipe),
        seed=3,
        learning_rates=RATES,
        device="cpu",
        devices=2,
        on_step=lambda step, total, _: steps.append((step, total)),
        resume_path=tmp_path / "resume.ckpt",
    )
    assert steps == [(step, 12) for step in range(1, 13)]
    assert (both.steps, both.tokens) == (alone.steps, alone.tokens)
    assert both.final_loss == pytest.approx(alone.final_loss, rel=1e-4)
    for name, weight in weights(one).items():
        torch.testing.assert_close(weights(two)[name], weight, rtol=1e-3, atol=1e-4)
    assert not any(isinstance(value, torch.Tensor) and value.is_cuda for value in two.state_dict().values())


def test_devices_that_each_keep_a_part_train_the_same_model_as_one(task, tmp_path):
    mixers = (ATTENTION, Mamba1(num_heads=2, head_dim=16))
    recipe = Recipe(tokens=12 * 4 * task.sequence_length, batch_size=4, schedule="wsd", decay=0.5)
    one, two = model_of(*mixers), model_of(*mixers)
    paths = {"auto": tmp_path / "one.ckpt", "fsdp": tmp_path / "two.ckpt"}
    for model, devices, (strategy, path) in zip((one, two), (1, 2), paths.items(), strict=True):
        fit(model, task, recipe, seed=3, learning_rates=RATES, device="cpu", devices=devices, strategy=strategy,
            branch_path=path)  # fmt: skip
    for name, weight in weights(one).items():
        torch.testing.assert_close(weights(two)[name], weight, rtol=1e-3, atol=1e-4)
    # What a longer training goes on from is the same too, the one by position, the other by name.
    alone, dealt = (torch.load(path, weights_only=True) for path in paths.values())
    assert alone["global_step"] == dealt["global_step"] == 6
    for name, weight in alone["state_dict"].items():
        torch.testing.assert_close(dealt["state_dict"][name], weight, rtol=1e-3, atol=1e-4)
    state, by_name = alone["optimizer_states"][0]["state"], dealt["optimizer_states"][0]["state"]
    names = [name for group in group_layout(one, recipe, RATES) for name in group.names]
    assert len(names) == len(by_name)
    for position, name in enumerate(names):
        for key, value in state[position].items():
            torch.testing.assert_close(by_name[f"model.{name}"][key], value, rtol=1e-2, atol=1e-6)


def test_a_checkpoint_of_another_strategy_is_put_away_and_training_starts_anew(task, tmp_path):
    recipe = Recipe(tokens=10 * 4 * task.sequence_length, batch_size=4, schedule="wsd", decay=0.5)
    path = tmp_path / "stable.ckpt"
    whole = fit(model_of(ATTENTION), task, recipe, seed=0, learning_rates=RATES, branch_path=path)
    torch.save(torch.load(path, weights_only=True) | {loop_module.SHARDED: True}, path)
    result = fit(model_of(ATTENTION), task, recipe, seed=0, learning_rates=RATES, branch_path=path)
    assert result.loss_curve == whole.loss_curve
    (note,) = result.notes
    assert note == f"the checkpoint {path} was written under another strategy; training starts anew"
    assert torch.load(path, weights_only=True)[loop_module.SHARDED] is False


def test_pieces_of_parameters_are_trained_as_the_whole_ones_would_be():
    model = model_of(ATTENTION, Mamba1(num_heads=2, head_dim=16))
    module = loop_module.TrainingModule(model, Recipe(tokens=1, batch_size=1), RATES, 1, 1, None, None, "cpu")

    def dealt():
        groups = module.configure_optimizers()["optimizer"].param_groups
        names = {parameter: name for name, parameter in model.named_parameters()}
        return [([names[p] for p in g["params"]], g["initial_lr"], g["weight_decay"]) for g in groups]

    before = dealt()
    for parameter in model.parameters():  # as FSDP leaves those that lie on other devices
        parameter.data = torch.empty(0)
    assert dealt() == before
    assert {decay for _, _, decay in before} == {0.0, 0.1}


def test_what_breaks_on_one_of_several_devices_ends_all_with_its_reason(task):
    recipe = Recipe(tokens=12 * 4 * task.sequence_length, batch_size=4, learning_rate_scale=1e30, grad_clip=0.0)
    with pytest.raises(NonFiniteLoss, match="The training loss was"):
        fit(model_of(ATTENTION), task, recipe, seed=3, learning_rates=RATES, device="cpu", devices=2)

    def stop(*_):
        raise TimeoutError("long enough")

    with pytest.raises(TimeoutError, match="long enough"):
        fit(model_of(ATTENTION), task, recipe, seed=3, learning_rates=RATES, device="cpu", devices=2, on_step=stop)


def test_of_several_devices_the_reason_of_the_first_that_breaks_is_told(tmp_path):
    leave_reason(tmp_path, NonFiniteLoss(7, float("nan")))
    leave_reason(tmp_path, RuntimeError("Connection closed by peer"))
    found = failure(tmp_path / ERROR, [])
    assert isinstance(found, NonFiniteLoss) and found.step == 7


def test_only_a_schedule_with_a_stable_part_stops_at_a_share(task):
    recipe = Recipe(tokens=4 * task.sequence_length, batch_size=4)
    with pytest.raises(ValueError, match="Only the schedule 'wsd' can stop at a share of the tokens, but got 'linear'"):
        fit(model_of(ATTENTION), task, recipe, seed=0, learning_rates=RATES, share=0.5)


def test_a_time_limit_ends_training_early(task):
    result = fit(model_of(ATTENTION), task, Recipe(tokens=10**6, batch_size=4), seed=0, learning_rates=RATES,
                 time_limit=0.2)  # fmt: skip
    assert 0 < result.steps < 10**6 // 64


def test_each_family_has_its_rate_and_the_rest_their_geometric_mean():
    model = model_of(ATTENTION, Mamba1(num_heads=2, head_dim=16))
    groups = groups_of(model, Recipe(tokens=1, batch_size=1, learning_rate_scale=0.5))
    rate_of = {parameter: group["lr"] for group in groups for parameter in group["params"]}
    assert rate_of[model.blocks[0].mixer.out_proj.weight] == pytest.approx(5e-3)
    assert rate_of[model.blocks[1].mixer.out_proj.weight] == pytest.approx(2e-2)
    assert 5e-3 < rate_of[model.embedding.weight] < 2e-2
    assert len(rate_of) == len(list(model.parameters()))


def test_a_design_of_one_family_is_trained_at_one_rate():
    groups = groups_of(model_of(ATTENTION, ATTENTION), Recipe(tokens=1, batch_size=1))
    assert [group["lr"] for group in groups] == pytest.approx([1e-2] * len(groups))


def test_norms_biases_and_decays_are_free_of_weight_decay():
    model = model_of(GatedDeltaNet(num_heads=1, head_dim=16), Mamba1(num_heads=2, head_dim=16))
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = groups_of(model, Recipe(tokens=1, batch_size=1))
    free = {names[p].rsplit(".", 1)[-1] for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    decayed = {names[p] for g in groups if g["weight_decay"] > 0 for p in g["params"]}
    assert {"A_log", "dt_bias"} <= free
    assert not [name for name in decayed if "norm" in name or "A_log" in name or name.endswith("bias")]
    assert "embedding.weight" in decayed


def test_gradients_are_clipped_to_the_recipe(task, monkeypatch):
    limits = []
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda parameters, limit: limits.append(limit))
    fit(model_of(ATTENTION), task, Recipe(tokens=128, batch_size=8, grad_clip=0.7), seed=0, learning_rates=RATES)
    assert limits == [0.7]


@pytest.mark.parametrize(
    ("schedule", "shares"),
    [
        ("linear", [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]),
        ("cosine", [0.5, 1.0, 1.0, 0.853553, 0.5, 0.146447]),
        ("constant", [0.5, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("wsd", [0.5, 1.0, 1.0, 1.0, 1.0, 0.5]),
    ],
)
def test_the_rate_rises_and_then_follows_the_schedule(schedule, shares):
    recipe = Recipe(tokens=1, batch_size=1, warmup=1 / 3, schedule=schedule, decay=1 / 3)
    assert [recipe.rate_share(step, 6) for step in range(6)] == pytest.approx(shares, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"tokens": 0, "batch_size": 1}, "tokens must be a positive integer, but got 0."),
        ({"tokens": "many", "batch_size": 1}, "tokens must be a positive integer, but got 'many'."),
        ({"tokens": 1, "batch_size": 1, "schedule": "lin"}, "schedule must be one of linear, cosine, constant"),
        ({"tokens": 1, "batchsize": 1}, "Did you mean 'batch_size'?"),
        ({"batch_size": 1}, "A recipe needs tokens"),
        ({"tokens": 1, "batch_size": 1, "warmup": 2}, "warmup must be a number from 0 to 1, but got 2."),
        ({"tokens": 1, "batch_size": 1, "betas": [0.9, 2.0]}, "betas must be two numbers"),
    ],
)
def test_recipes_that_do_not_hold_are_one_sentence(options, sentence):
    with pytest.raises(RecipeError) as error:
        recipe_from(options)
    assert sentence in str(error.value)


def test_the_shipped_table_has_a_rate_for_every_family_and_says_how_it_was_measured():
    families = {"attention", "gated_linear_attention", "mamba2", "mamba1", "gated_deltanet"}
    for name in ("text", "recall", "mixed"):
        rates = learning_rates(name)
        assert set(rates) == families
        assert all(1e-5 < rate < 1e-1 for rate in rates.values())
    for rows in read_table()["tasks"].values():
        for row in rows.values():
            assert {"device", "torch", "date", "tokens"} <= set(row["measured_with"])
            assert len(row["scores"]) >= 4
            assert row["rate"] == float(min(row["scores"], key=lambda rate: sum(row["scores"][rate])))
