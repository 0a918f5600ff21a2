"""What every search space promises: the same parameters, the same architecture; a known design has parameters."""

import random
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import pytest
import yaml
from optuna.trial import FixedTrial

from nas.architecture import ArchitectureError, Glu, Moe, canonical_id, read_architecture
from search_spaces import SPACES, build_space

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = 200
POINTS = [
    ("hybrid", "free"),
    ("hybrid", "tiled"),
    ("hybrid", "staged"),
    ("pattern", None),
    ("head_mix", None),
    ("linear", None),
    ("attention", None),
    ("moe", None),
    ("staged", None),
]


class SeededTrial:
    """A random trial that keeps what it answered and starts from fixed answers."""

    def __init__(self, seed, fixed=()):
        self.random = random.Random(seed)
        self.fixed = dict(fixed)
        self.params = {}
        self.choices = {}

    def suggest_categorical(self, name, choices, /):
        assert name not in self.params, f"{name} is asked twice"
        self.choices[name] = list(choices)
        self.params[name] = self.fixed.get(name, self.random.choice(list(choices)))
        return self.params[name]


def settings(name, layout=None):
    loaded = yaml.safe_load((ROOT / f"conf/search_space/{name}.yaml").read_text())
    return loaded | ({"layout": layout} if layout else {})


@pytest.fixture(params=POINTS, ids=lambda p: "-".join(filter(None, p)))
def space(request):
    name, layout = request.param
    return build_space(name, settings(name, layout), vocab_size=256)


def designs():
    return [read_architecture(path) for path in sorted((ROOT / "conf/designs").glob("*.yaml"))]


def with_d_ff(architecture, factor):
    """The FFN widths that parameter matching would leave."""

    def widen(ffn):
        return replace(ffn, d_ff=max(1, round(ffn.d_ff * factor))) if isinstance(ffn, Glu | Moe) else ffn

    return replace(architecture, blocks=tuple(replace(b, ffn=widen(b.ffn)) for b in architecture.blocks))


@pytest.mark.parametrize("name", SPACES)
def test_the_fields_of_a_space_are_those_of_its_file_and_only_the_file_has_defaults(name):
    assert {f.name for f in fields(SPACES[name])} == set(settings(name)) | {"vocab_size"}
    with pytest.raises(ArchitectureError, match="needs a value for window, but got none"):
        build_space(name, {k: v for k, v in settings(name).items() if k != "window"}, vocab_size=256)


def test_every_file_has_a_space():
    assert {path.stem for path in (ROOT / "conf/search_space").glob("*.yaml")} == set(SPACES)


def test_every_sample_is_an_architecture_of_the_asked_size(space):
    for seed in range(SAMPLES):
        architecture = space(SeededTrial(seed))
        assert architecture.vocab_size == 256
        assert architecture.d_model in space.d_model
        assert len(architecture.blocks) in space.num_layers


def test_one_parameter_name_always_has_the_same_choices_all_of_them_different(space):
    known = {}
    for seed in range(SAMPLES):
        trial = SeededTrial(seed)
        space(trial)
        for name, choices in trial.choices.items():
            assert known.setdefault(name, choices) == choices
            assert len(set(choices)) == len(choices) > 1
            assert all(isinstance(choice, str | int) for choice in choices)


def test_the_same_parameters_give_the_same_architecture(space):
    for seed in range(20):
        trial = SeededTrial(seed)
        assert space(trial) == space(FixedTrial(trial.params))


def test_encode_inverts_sampling_whatever_the_ffn_widths(space):
    for seed in range(SAMPLES):
        architecture = space(SeededTrial(seed))
        for factor in (1.0, 0.37):
            params = space.encode(with_d_ff(architecture, factor))
            assert params is not None
            assert space(FixedTrial(params)) == architecture


def test_changing_any_choice_changes_the_architecture(space):
    changed = set()
    for seed in range(25):
        trial = SeededTrial(seed)
        before = canonical_id(space(trial))
        for name, choices in trial.choices.items():
            for other in set(choices) - {trial.params[name]}:
                after = space(SeededTrial(seed, trial.params | {name: other}))
                # A longer pattern may happen to repeat a shorter one, and stages to be alike.
                if not name.rpartition(".")[2].startswith(("period", "split")):
                    assert canonical_id(after) != before, f"{name}: {trial.params[name]} -> {other}"
                changed.add(name)
    assert {"num_layers", "d_model"} < changed


def test_references_replay_and_do_not_repeat(space):
    found = space.references(designs() * 2)
    assert found
    points = {canonical_id(space(FixedTrial(params))) for _, params in found}
    assert len(points) == len(found)


def test_a_design_with_a_mixer_or_an_option_without_a_choice_has_no_parameters(space):
    inside = space(SeededTrial(0))
    assert space.encode(inside) is not None
    assert space.encode(replace(inside, tie_embeddings=False)) is None
    assert space.encode(replace(inside, blocks=inside.blocks * 7)) is None
    gelu = Glu(d_ff=64, activation="gelu")
    assert space.encode(replace(inside, blocks=tuple(replace(b, ffn=gelu) for b in inside.blocks))) is None


BAD = [
    ({"windows": 32}, r"no field 'windows'\. Did you mean 'window'\?"),
    ({"num_layers": 0}, "num_layers must be at least 1, but got 0"),
    ({"num_layers": -4}, "num_layers must be at least 1, but got -4"),
    ({"num_layers": [4, "eight"]}, "num_layers must be a whole number of at least 1, but got 'eight'"),
    ({"num_layers": True}, "num_layers must be a whole number"),
    ({"d_model": 96.5}, "d_model must be a whole number"),
    ({"d_model": []}, "d_model needs at least one value, but got an empty list"),
    ({"d_model": 100}, "d_model must be a multiple of head_dim, but got d_model=100, head_dim=32"),
    ({"head_dim": 8, "d_model": 96}, "head_dim must be a multiple of 4 from 16 to 256, but got 8"),
    ({"num_kv_heads": 3}, "num_kv_heads must divide the 2 heads of d_model=64, but got 3"),
    ({"num_kv_heads": "1/2", "d_model": 96}, "num_kv_heads must divide the 3 heads of d_model=96, but got 1/2"),
    ({"num_kv_heads": "some"}, "num_kv_heads must be a number of KV heads, a share such as 1/2, or full"),
    ({"position": "alibi"}, r"position does not know 'alibi'\. Valid: none, rope"),
    ({"window": None}, "window must be a whole number of at least 1, but got None"),
    ({"ffns": ["glu", "mo"]}, r"ffns does not know 'mo'\. Did you mean 'moe'\?"),
    ({"num_experts": 1}, "num_experts must be at least 2, but got 1"),
    ({"ffns": "moe", "top_k": [1, 8]}, "top_k must be at most num_experts, but got top_k=8, num_experts=4"),
    ({"match_params": "yes"}, "match_params must be true or false, but got 'yes'"),
    ({"vocab_size": 300}, r"vocab_size is that of the task \(256\)"),
    ({"params": 0}, "params must be at least 1, but got 0"),
]


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize(("bad", "message"), BAD, ids=[str(bad) for bad, _ in BAD])
def test_bad_settings_are_one_clear_line(name, bad, message):
    with pytest.raises(ArchitectureError, match=message) as error:
        build_space(name, settings(name) | bad, vocab_size=256)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", SPACES)
def test_every_list_also_takes_a_scalar_and_one_value_is_no_choice(name):
    scalars = {key: value[0] if isinstance(value, list) else value for key, value in settings(name).items()}
    trial = SeededTrial(0)
    architecture = build_space(name, scalars, vocab_size=256)(trial)
    assert len(architecture.blocks) == settings(name)["num_layers"][0]
    assert not {"num_layers", "d_model", "window", "ffn"} & set(trial.params)


def test_an_unknown_space_names_the_nearest():
    with pytest.raises(ArchitectureError, match=r"There is no search space 'hybird'\. Did you mean 'hybrid'\?"):
        build_space("hybird", {}, vocab_size=256)


def test_importing_the_spaces_loads_neither_torch_nor_optuna():
    code = "import sys, search_spaces; sys.exit(any(m in sys.modules for m in ('torch', 'optuna')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
