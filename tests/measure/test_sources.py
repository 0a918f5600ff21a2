"""Stale or not: an entry follows the code of its own operations, and no other."""

import ast
import shutil
from pathlib import Path

import pytest

from nas.architecture import HeadMix
from nas.measure import sources
from nas.measure.sources import door, hash_of_files, kernels_of, operations_of_part
from nas.measure.table_parts import Joint, Part, joined
from tests.measure.examples import ATTENTION, ENDS, GLU, MAMBA2, MOE, SPARSE, D
from tests.test_count import ALL_FFNS, ALL_MIXERS

H200 = "NVIDIA H200"
ROOT = Path(__file__).resolve().parents[2]
CACHES = (
    *(
        sources.closure,
        sources.imports_of,
        sources.door,
        sources.hash_of_kernel,
        sources.hash_of_files,
        sources.with_borrowed,
    ),
    *(sources.hash_of_class, sources.operations_of_part),
)


def forget() -> None:
    for cached in CACHES:
        cached.cache_clear()


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A copy of the code that can be edited, and the hashes by it."""
    for folder in ("kernels", "nas/mixers", "nas/ffns", "nas/layers", "nas/losses"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("nas/model.py", "nas/residual.py", "nas/context.py"):
        shutil.copy(ROOT / file, tmp_path / file)
    monkeypatch.setattr(sources, "ROOT", tmp_path)
    forget()
    yield tmp_path
    monkeypatch.undo()
    forget()


def hashes(part: Part, device: str = "cpu") -> dict[str, str]:
    forget()
    return operations_of_part(part, D, device)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_block_names_its_layers_and_the_kernels_that_these_use() -> None:
    attention, mamba = operations_of_part(ATTENTION, D, "cpu"), operations_of_part(MAMBA2, D, "cpu")
    assert {"nas.mixers.attention", "nas.layers.kv_cache", "nas.layers.rope", "attention"} <= set(attention)
    assert {"nas.mixers.mamba2", "nas.layers.short_conv", "matrix_recurrence"} <= set(mamba)
    assert "matrix_recurrence" not in attention and "attention" not in mamba
    assert "nas.mixers.mamba2" not in attention and "nas.mixers.attention" not in mamba
    assert {"nas.ffns.moe", "moe"} <= set(operations_of_part(MOE, D, "cpu"))
    assert "moe" not in operations_of_part(GLU, D, "cpu")
    both = operations_of_part(HeadMix(parts=(ATTENTION, MAMBA2)), D, "cpu")
    assert both.items() >= attention.items() | mamba.items()


def test_a_kernel_that_uses_anothers_code_on_a_device_follows_it_there(copy: Path) -> None:
    cpu, gpu = hashes(MOE, "cpu"), hashes(MOE, H200)
    assert "grouped_matmul" in gpu and "moe" in gpu
    edit(copy / "kernels/_grouped_matmul/gpu.py", "import triton\n", "import triton\n\nNEW = 1\n")
    assert {name for name, value in hashes(MOE, H200).items() if gpu[name] != value} == {"grouped_matmul"}
    assert hashes(MOE, "cpu") == cpu


@pytest.mark.parametrize("part", [*ALL_MIXERS[1:], *ALL_FFNS, ENDS], ids=lambda p: type(p).__name__)
def test_every_kind_of_block_depends_on_some_code(part) -> None:
    for device in ("cpu", H200):
        found = operations_of_part(part, D, device)
        assert found and all(len(value) >= sources.HASH_LENGTH for value in found.values())


def test_the_door_says_which_kernel_a_function_belongs_to() -> None:
    assert door()["attention_step"] == "attention"
    assert kernels_of("nas.mixers.recurrent") == {"matrix_recurrence"}


def test_an_entry_is_stale_when_its_own_operation_changed_and_not_when_another_did(copy: Path) -> None:
    attention, mamba, glu = (hashes(part) for part in (ATTENTION, MAMBA2, GLU))
    edit(copy / "kernels/_attention/portable.py", "import torch\n", "import torch\n\nNEW = 1\n")
    assert hashes(ATTENTION) != attention
    assert hashes(MAMBA2) == mamba
    assert hashes(GLU) == glu
    changed = {name for name, value in hashes(ATTENTION).items() if attention[name] != value}
    assert changed == {"attention"}


def test_a_layer_that_several_blocks_share_makes_all_of_them_stale(copy: Path) -> None:
    attention, sparse, mamba = (hashes(part) for part in (ATTENTION, SPARSE, MAMBA2))
    edit(copy / "nas/layers/kv_cache.py", "import torch\n", "import torch\n\nNEW = 1\n")
    assert hashes(ATTENTION) != attention and hashes(SPARSE) != sparse
    assert hashes(MAMBA2) == mamba


def test_comments_docstrings_and_blank_lines_make_nothing_stale(copy: Path) -> None:
    before = hashes(ATTENTION)
    path = copy / "nas/mixers/attention.py"
    edit(path, '"""The state holds', '"""In other words: the state holds')
    path.write_text("# A comment.\n\n\n" + path.read_text() + "\n# Another one.\n")
    edit(path, "        given = {", "\n        # And one inside.\n        given = {")
    assert hashes(ATTENTION) == before
    edit(path, "self.num_global + self.window", "self.num_global + 0 + self.window")
    assert hashes(ATTENTION) != before


def test_a_hash_is_of_text_that_is_the_same_under_every_python() -> None:
    """`ast.dump` shows empty fields under some versions, and fields that others do not have."""
    tree = ast.parse("def f(x, *, y=None):\n    return x\n\nclass A(B):\n    pass\n")
    assert sources.dumped(tree) == (
        "Module(body=[FunctionDef(name='f', args=arguments(args=[arg(arg='x')], kwonlyargs=[arg(arg='y')], "
        "kw_defaults=[Constant()]), body=[Return(value=Name(id='x', ctx=Load()))]), "
        "ClassDef(name='A', bases=[Name(id='B', ctx=Load())], body=[Pass()])])"
    )


def test_of_a_kernel_only_what_runs_on_the_device_counts(copy: Path) -> None:
    cpu, gpu = hashes(ATTENTION, "cpu"), hashes(ATTENTION, H200)
    assert cpu["attention"] != gpu["attention"]
    edit(copy / "kernels/_attention/portable.py", "import torch\n", "import torch\n\nNEW = 1\n")
    assert hashes(ATTENTION, H200) == gpu
    files = sorted((copy / "kernels/_attention").glob("gpu*.py"))
    files[0].write_text(files[0].read_text() + "\nNEW = 1\n")
    assert hashes(ATTENTION, H200) != gpu


def test_launches_tuned_for_a_gpu_make_its_own_entries_stale_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    tuned: dict[tuple[str, str], str] = {}
    monkeypatch.setattr(sources, "fingerprint", lambda kernel, gpu: tuned.get((kernel, gpu), "untuned"))
    parts, devices = (ATTENTION, MAMBA2), (H200, "NVIDIA H100", "cpu")
    before = {(part, device): hashes(part, device) for part in parts for device in devices}
    tuned["attention", H200] = "tuned"
    stale = {key for key, value in before.items() if hashes(*key) != value}
    forget()
    assert stale == {(ATTENTION, H200)}


def test_the_definition_of_a_kernel_makes_nothing_stale(copy: Path) -> None:
    before = hashes(ATTENTION)
    (copy / "kernels/_attention/reference.py").write_text("NEW = 1\n")
    assert hashes(ATTENTION) == before


def test_the_ends_of_a_network_follow_their_own_code(copy: Path) -> None:
    before = hashes(ENDS)
    assert "nas.layers.norm" in before
    edit(copy / "nas/mixers/attention.py", "self.num_global + self.window", "self.num_global + 0 + self.window")
    assert hashes(ENDS) == before
    edit(copy / "nas/layers/norm.py", "import torch\n", "import torch\n\nNEW = 1\n")
    assert hashes(ENDS) != before


def test_embedding_and_head_follow_the_loss_that_a_training_step_ends_with(copy: Path) -> None:
    ends, attention = hashes(ENDS), hashes(ATTENTION)
    assert "linear_cross_entropy" in ends
    edit(copy / "nas/losses/causal.py", "return loss, {", "return 1 * loss, {")
    assert {name for name, value in hashes(ENDS).items() if ends[name] != value} == {"nas.losses.causal"}
    assert hashes(ATTENTION) == attention


def test_embedding_and_head_follow_the_model_and_blocks_how_they_join(copy: Path) -> None:
    ends, attention = hashes(ENDS), hashes(ATTENTION)
    head = "F.linear(self.norm(x), self._head_weight())"
    edit(copy / "nas/model.py", head, f"{head} + 0")
    assert {name for name, value in hashes(ENDS).items() if ends[name] != value} == {"ends"}
    assert hashes(ATTENTION) == attention
    ends = hashes(ENDS)
    edit(copy / "nas/residual.py", "times(past, w.mixer_skip)", "1 * times(past, w.mixer_skip)")
    assert {name for name, value in hashes(ATTENTION).items() if attention[name] != value} == {"residual"}
    assert hashes(ENDS) == ends


def test_what_both_use_makes_both_stale_and_what_is_never_timed_none(copy: Path) -> None:
    ends, attention = hashes(ENDS), hashes(ATTENTION)
    edit(copy / "nas/model.py", "if max_new_tokens < 1:", "if max_new_tokens <= 0:")
    assert (hashes(ENDS), hashes(ATTENTION)) == (ends, attention)
    edit(copy / "nas/residual.py", "return x if factor == 1 else factor * x", "return factor * x")
    assert hashes(ENDS) != ends and hashes(ATTENTION) != attention


def test_a_block_follows_the_norm_before_it_and_one_that_shares_a_norm_does_not(copy: Path) -> None:
    shared = joined(GLU, Joint(placement="shared"))
    own, without = hashes(GLU), hashes(shared)
    edit(copy / "nas/layers/norm.py", "import torch\n", "import torch\n\nNEW = 1\n")
    assert hashes(GLU) != own
    assert hashes(shared) == without


def test_the_hash_does_not_depend_on_where_the_code_lies(copy: Path) -> None:
    inside = hash_of_files((copy / "nas/mixers/attention.py",))
    assert inside == hash_of_files((ROOT / "nas/mixers/attention.py",))
