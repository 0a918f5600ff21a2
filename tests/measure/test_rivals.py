"""Other implementations count only when they are right; their adapters speak our conventions."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import kernels
from nas.measure import meter, rival_adapters, rivals
from nas.measure.rival_cases import CASES, as_called, decline, relative_error
from nas.measure.rivals import RIVALS, Rival, first_to_accept, refused_rivals, verified_rivals

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def fresh_verdicts():
    rivals._verdicts.cache_clear()
    yield
    rivals._verdicts.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_pytorch_brings_counts_on_a_cpu(dtype):
    verified = verified_rivals(CPU, dtype)
    assert set(verified) == set(CASES) == set(kernels.backend.OPERATIONS)
    assert [rival.name for rival in verified["attention"]] == ["sdpa"]
    assert [rival.name for rival in verified["attention_step"]] == ["sdpa step"]
    assert [rival.name for rival in verified["grouped_matmul"]] == ["grouped_mm"]
    assert verified["selective_scan"] == []


def test_whole_networks_are_timed_with_rivals_of_the_large_operations_alone():
    verified = verified_rivals(CPU, torch.float32)
    assert [rival.name for rival in verified["short_convolution"]] == ["conv1d"]
    rivals_of_networks = meter.of_networks(verified)
    assert [rival.name for rival in rivals_of_networks["attention"]] == ["sdpa"]
    assert rivals_of_networks["short_convolution"] == []


def test_versions_are_those_of_the_packages_that_bring_a_library():
    assert rivals.version_of_library("pytest") == f"pytest {pytest.__version__}"
    assert rivals.version_of_library("no_such_library") == "none"


def test_fla_is_never_imported_without_a_gpu():
    program = (  # of a process of its own, because an oracle of another test may have imported it in this one
        "import sys, torch\n"
        "from nas.measure.rivals import verified_rivals\n"
        "verified_rivals(torch.device('cpu'), torch.float32)\n"
        "print(sorted(name for name in sys.modules if name.split('.')[0] == 'fla'))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
    assert "alone" in refused_rivals(CPU, torch.float32)["fla chunk_gla"]


def test_a_rival_that_is_wrong_raises_or_declines_everything_is_left_out_with_the_reason(monkeypatch):
    def wrong(q, k, v, **options):
        return rival_adapters.sdpa(q, k, v, **options) * 1.1

    def raises(q, k, v, **options):
        raise RuntimeError("this backward pass is miscompiled\nhere")

    def declines(q, k, v, **options):
        return NotImplemented

    named = {"wrong": wrong, "raises": raises, "declines": declines, "right": rival_adapters.sdpa}
    monkeypatch.setattr(
        rivals, "RIVALS", tuple(Rival(name, "attention", call, ("cpu",)) for name, call in named.items())
    )
    assert [rival.name for rival in verified_rivals(CPU, torch.float32)["attention"]] == ["right"]
    reasons = refused_rivals(CPU, torch.float32)
    assert "relative error on causal is 0.1, above 0.002" in reasons["wrong"]
    assert "RuntimeError on causal: this backward pass is miscompiled here" in reasons["raises"]
    assert "declines everything" in reasons["declines"]


def test_a_rival_without_a_right_backward_pass_counts_for_inference_alone(monkeypatch):
    def no_gradient(q, k, v, **options):
        return rival_adapters.sdpa(q.detach(), k, v, **options)

    monkeypatch.setattr(rivals, "RIVALS", (Rival("halfway", "attention", no_gradient, ("cpu",)),))
    assert verified_rivals(CPU, torch.float32)["attention"] == []
    assert [one.name for one in verified_rivals(CPU, torch.float32, gradients=False)["attention"]] == ["halfway"]


def test_a_rival_that_spoils_the_gpu_or_ends_its_process_leaves_the_others_their_verdict(monkeypatch):
    """The processes are played: on a GPU, the first child ends at `spoils`, and one with `kills` never answers."""
    answers = {"right": None, "spoils": "It raises AcceleratorError on causal: illegal access", "last": None}

    def play_child(function, names, *rest):
        if "kills" in names:
            raise rivals.ChildFailed("The process ended.")
        found = {}
        for name in names:
            found[name] = answers[name]
            if answers[name]:
                break
        return found

    monkeypatch.setattr(rivals, "in_child", play_child)
    names = ("right", "spoils", "kills", "last")
    found = rivals._complaints_from_children(names, torch.device("cuda"), torch.bfloat16, True)
    assert found == {**answers, "kills": "The process ended."}


def test_the_first_rival_that_does_not_decline_answers():
    def declines(*tensors, **options):
        return NotImplemented

    call = first_to_accept([Rival("a", "attention", declines), Rival("b", "attention", rival_adapters.sdpa)])
    assert first_to_accept([])() is NotImplemented
    for case in CASES["attention"]:
        arguments = case.arguments(CPU, torch.float32)
        with kernels.use_substitutes({"attention": call}):
            assert relative_error(case.run(arguments, False), case.right_answer(arguments, False)) < 1e-5


def pretend_fla(module, name):
    """A function with fla's conventions that computes by our definition, to check what the adapter hands over."""
    assert name in (f"chunk_{module}", f"fused_recurrent_{module}")

    def compute(q, k, v, initial_state, output_final_state, scale, **options):
        assert q.dim() == 4
        with kernels.use_substitutes({"matrix_recurrence": decline}):
            o, state = kernels.matrix_recurrence(
                q, k, v, initial_state=initial_state, return_state=True, scale=scale, **options
            )
        return o, state if output_final_state else None

    def call(q, k, v, *, g=None, gk=None, g_gamma=None, beta=None, **options):
        assert (gk is not None) == (name == "fused_recurrent_gla")
        given = next((gate for gate in (g, gk, g_gamma) if gate is not None), None)
        return compute(q, k, v, log_decay=given, beta=beta, **options)

    def rwkv6(r, k, v, w, u, **options):
        return compute(r, k, v, log_decay=w, bonus=u, **options)

    def rwkv7(r, w, k, v, a, b, **options):
        return compute(r, k, v, log_decay=w, erase=(a, b), **options)

    return {"rwkv6": rwkv6, "rwkv7": rwkv7}.get(module, call)


@pytest.mark.parametrize(
    "rival",
    [one for one in RIVALS if one.name.startswith("fla") and one.function.startswith("matrix")],
    ids=lambda one: one.name,
)
def test_adapters_of_fla_hand_over_what_was_asked(rival, monkeypatch):
    monkeypatch.setattr(rival_adapters, "fla_function", pretend_fla)
    here = Rival(rival.name, rival.function, rival.call, ("cpu",))
    monkeypatch.setattr(rivals, "RIVALS", (here,))
    assert refused_rivals(CPU, torch.float32) == {}


def test_every_kind_of_recurrence_has_one_fla_function():
    for case in (*CASES["matrix_recurrence"], *CASES["matrix_recurrence_step"]):
        given = as_called(case.arguments(CPU, torch.float32))
        options = (given.get(name) for name in ("log_decay", "beta", "erase", "bonus"))
        kind = rival_adapters.kind_of(given["v"], *options)
        names = (f"fla chunk_{kind}", f"fla fused_recurrent_{kind}")
        assert sum(one.function == case.function and one.name in names for one in RIVALS) == 1
    beta = torch.zeros(1, 3, 2)
    assert rival_adapters.kind_of(torch.zeros(1, 3, 2, 4), torch.zeros(2), beta, None, None) == "nobody's layer"


@pytest.mark.parametrize(
    "name", [one.name for one in RIVALS if one.name.startswith("fla") and "matrix" in one.function]
)
def test_what_fla_is_asked_for_exists(name):
    spec = importlib.util.find_spec("fla")  # not imported: fla breaks where there is no GPU
    if spec is None or spec.submodule_search_locations is None:
        pytest.skip("fla is not installed")
    function = name.removeprefix("fla ")
    kind = function.removeprefix("chunk_").removeprefix("fused_recurrent_")
    folder = Path(spec.submodule_search_locations[0], "ops", kind)
    assert function in (folder / "__init__.py").read_text()
    definition = next(
        text for path in folder.glob("*.py") if f"\ndef {function}(" in (text := path.read_text())
    ).partition(f"\ndef {function}(")[2].partition(")")[0]  # fmt: skip
    taken = {"rwkv6": ("r", "k", "v", "w", "u"), "rwkv7": ("r", "w", "k", "v", "a", "b")}.get(kind, ("q", "k", "v"))
    for argument in (*taken, "scale", "initial_state", "output_final_state"):
        assert f"    {argument}: " in definition, argument
