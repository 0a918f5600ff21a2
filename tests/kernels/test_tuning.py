"""Which launch a kernel gets: measured, nearest or default; what makes an entry void; and the record of it all."""

import json
from dataclasses import replace

import pytest
import torch
import triton

from kernels import (
    attention,
    attention_step,
    grouped_matmul,
    matrix_recurrence,
    record_launches,
    selective_scan,
    tuned_table,
    use_backend,
    use_substitutes,
)
from kernels._attention import gpu, launches
from kernels._attention.gpu_forward import attention_fwd_kernel
from kernels.source_hash import source_hash
from kernels.tuned_table import Entry, Refused, read_entries, slug, write_entries
from kernels.tuning import (
    CHOICES,
    choose,
    choose_implementation,
    distinct,
    force_launches,
    forget_tables,
    implementation_source,
    watch_launches,
)
from tests.counted_calls import calls_of

HEADS = torch.linspace(-1, 1, 1 * 40 * 2 * 32).reshape(1, 40, 2, 32)
CPU = torch.device("cpu")
FORWARD = launches.launch_key("attention.forward", launches.Form(32, 32, 4, causal=True))
CHOICE = launches.implementation_key(4, 32, causal=True, training=False)
SMALL = {"BM": 16, "BN": 16, "num_warps": 2, "num_stages": 1}


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Writes entries where the interpreter, which runs on the CPU, looks for those of its device."""
    monkeypatch.setattr(tuned_table, "FOLDER", tmp_path)
    forget_tables()

    def write(*entries):
        write_entries(tmp_path / "cpu.json", "cpu", list(entries))
        forget_tables()
        return tmp_path / "cpu.json"

    yield write
    forget_tables()


def entry(**changes):
    right = Entry(
        key=FORWARD,
        config=SMALL,
        default=launches.default_launch(FORWARD),
        milliseconds=1.0,
        default_milliseconds=2.0,
        error=0.5,
        problem="causal",
        triton=triton.__version__,
        source=source_hash(attention_fwd_kernel),
    )
    return replace(right, **changes)


def run_attention(x=HEADS):
    with use_backend("gpu"), record_launches() as record:
        out = attention(x, x, x)
    return out, record


def test_without_a_file_every_launch_is_the_default(table):
    assert run_attention()[1] == {"attention.forward": "default"}


def test_an_entry_of_the_very_key_is_launched_and_right(table):
    expected, _ = run_attention()
    table(entry())
    launched = []
    with watch_launches(lambda key, launch: (launched.append(key), launch())):
        out, record = run_attention()
    assert record == {"attention.forward": "tuned"} and launched == [CHOICE, FORWARD]
    assert choose(FORWARD, attention_fwd_kernel, launches.default_launch, CPU) == SMALL
    torch.testing.assert_close(out, expected)


def test_other_sizes_are_nearest_only_where_they_were_checked(table):
    other = HEADS.repeat(1, 1, 1, 2)
    table(entry())
    assert run_attention(other)[1] == {"attention.forward": "default"}
    table(entry(checked_sizes=((("D", 64),),)))
    assert run_attention(other)[1] == {"attention.forward": "nearest"}


def test_of_two_that_were_checked_the_nearer_size_serves(table):
    far = replace(FORWARD, sizes=(("D", 256),))
    wanted = (("D", 64),)
    table(
        entry(checked_sizes=(wanted,)),
        entry(key=far, config=SMALL | {"num_warps": 8}, checked_sizes=(wanted,)),
    )
    assert choose(replace(FORWARD, sizes=wanted), attention_fwd_kernel, launches.default_launch, CPU) == SMALL


@pytest.mark.parametrize(
    "changes",
    [
        {"source": "another"},
        {"triton": "2.1.0"},
        {"config": None},
        {"config": {"BLOCK": 16}},
        {"key": replace(FORWARD, element_bytes=2)},
        {"key": replace(FORWARD, flags=(("causal", 0), *FORWARD.flags[1:]))},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_what_was_measured_for_something_else_is_ignored(table, changes):
    table(entry(**changes))
    assert run_attention()[1] == {"attention.forward": "default"}


def test_another_patch_release_of_triton_still_counts(table):
    table(entry(triton=".".join(triton.__version__.split(".")[:2]) + ".99"))
    assert run_attention()[1] == {"attention.forward": "tuned"}


def test_number_of_tokens_sequences_and_heads_is_in_no_key():
    keys = []
    with use_backend("gpu"), watch_launches(lambda key, launch: keys.append(key)):
        for batch, tokens, heads in ((2, 40, 2), (3, 7, 4)):
            x = torch.zeros(batch, tokens, heads, 32)
            attention(x, x, x)
            matrix_recurrence(x, x, x, log_decay=torch.zeros(batch, tokens, heads))
            wide = torch.zeros(batch, tokens, 64)
            selective_scan(wide, wide, torch.zeros(64, 4), wide[..., :4], wide[..., :4])
            grouped_matmul(wide[0], torch.zeros(heads, 64, 32), torch.tensor([tokens] + [0] * (heads - 1)))
    sums = [key for key in keys if key.kernel == "matrix_recurrence.chunk_sum"]
    assert [dict(key.sizes) for key in sums] == [{"W": 2}, {"W": 4}], "only narrow running sums know the heads"
    others = [key for key in keys if key not in sums]
    assert others[: len(others) // 2] == others[len(others) // 2 :]


def test_the_record_is_empty_where_no_kernel_of_ours_is_launched():
    with record_launches() as record:
        attention(HEADS, HEADS, HEADS)
        with use_backend("gpu"), use_substitutes({"attention": lambda q, *_, **__: q}):
            attention(HEADS, HEADS, HEADS)
    assert record == {}


def test_the_record_has_the_backward_pass_and_every_family(table):
    x = HEADS[:, :20].clone().requires_grad_()
    with use_backend("gpu"), record_launches() as record:
        attention(x, x, x).sum().backward()
        attention_step(HEADS[:, 0], HEADS, HEADS, 3)
        matrix_recurrence(HEADS[:, :3], HEADS[:, :3], HEADS[:, :3])
        selective_scan(HEADS[0, :3], HEADS[0, :3].abs(), -torch.ones(32, 2), HEADS[0, :3, :, :2], HEADS[0, :3, :, :2])
        grouped_matmul(HEADS[0, :, 0], torch.ones(1, 32, 16), torch.tensor([40]))
    names = {f"attention.{kernel}" for kernel in ("forward", "backward_dq", "backward_dkv", "step")}
    names |= {"matrix_recurrence.state", "selective_scan.output", "grouped_matmul.rows"}
    assert names <= set(record) and set(record.values()) == {"default"}


def test_the_record_keeps_the_least_known_status_of_a_kernel(table):
    table(entry())
    with record_launches() as outer:
        assert run_attention()[1] == {"attention.forward": "tuned"}
        assert outer == {"attention.forward": "tuned"}
        run_attention(HEADS.repeat(1, 1, 1, 2))
        run_attention()
    assert outer == {"attention.forward": "default"}


def test_a_forced_launch_is_launched_and_not_recorded(table):
    seen = []
    config = SMALL | {"BM": 32}
    with force_launches({FORWARD: config}):
        assert choose(FORWARD, attention_fwd_kernel, launches.default_launch, CPU) == config
        with watch_launches(lambda key, launch: (seen.append(key), launch())):
            assert run_attention()[1] == {}
    assert seen == [CHOICE, FORWARD]
    assert run_attention()[1] == {"attention.forward": "default"}


def chosen(**changes):
    """The entry of a choice that PyTorch won."""
    theirs, ours = CHOICES["torch"], CHOICES["ours"]
    source = implementation_source(gpu.IMPLEMENTATION_KERNELS)
    return replace(entry(key=CHOICE, config=theirs, default=ours, source=source), **changes)


def test_who_computes_is_what_the_table_says_and_ours_without_one(table):
    kernels = gpu.IMPLEMENTATION_KERNELS
    assert choose_implementation(CHOICE, kernels, CPU) == "ours"
    table(chosen())
    with record_launches() as record:
        assert choose_implementation(CHOICE, kernels, CPU) == "torch"
        assert choose_implementation(replace(CHOICE, flags=(("causal", 0), ("training", 0))), kernels, CPU) == "ours"
    assert record == {"attention.implementation": "tuned"}
    with use_backend("gpu"):
        assert choose_implementation(CHOICE, kernels, CPU) == "ours", "who asks for our kernels gets them"
    for changes in ({"source": "of other kernels"}, {"config": CHOICES["ours"]}, {"config": None}):
        table(chosen(**changes))
        assert choose_implementation(CHOICE, kernels, CPU) == "ours"


def launched_kernels(x, choice, **options):
    """The names of what a call asks for and launches, where PyTorch won the choice."""
    seen = []
    with force_launches({choice: CHOICES["torch"]}), use_backend("gpu"):
        with watch_launches(lambda key, launch: (seen.append(key.kernel), launch())):
            o = attention(x, x, x, **options)
    return o, seen


def test_a_plain_call_goes_where_the_choice_says_and_any_other_to_our_kernels():
    o, seen = launched_kernels(HEADS, CHOICE)
    assert seen == ["attention.implementation"]
    torch.testing.assert_close(o, run_attention()[0])
    assert launched_kernels(HEADS, CHOICE, window=40)[1] == seen
    for options in ({"window": 39}, {"return_lse": True}, {"sink": torch.zeros(2)}, {"softcap": 5.0}, {"prefix": 2}):
        assert launched_kernels(HEADS, CHOICE, **options)[1] == ["attention.forward"], options


def test_gradients_that_must_repeat_are_ours(monkeypatch):
    training = launches.implementation_key(4, 32, causal=True, training=True)
    x = HEADS.clone().requires_grad_()
    assert launched_kernels(x, training)[1] == ["attention.implementation"]
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    assert launched_kernels(x, training)[1] == ["attention.forward"]


def test_candidates_that_come_out_alike_are_tried_once_and_the_default_stays_first():
    candidates = distinct(lambda key: ({"BM": min(block, 32)} for block in (64, 16, 32)))
    assert candidates(FORWARD) == [{"BM": 32}, {"BM": 16}]


def test_a_compiled_call_asks_for_the_implementation_once():
    torch.compiler.reset()
    compiled = torch.compile(attention, fullgraph=True, backend="eager")
    with use_backend("gpu"):
        torch.testing.assert_close(compiled(HEADS, HEADS, HEADS), attention(HEADS, HEADS, HEADS))
    torch.compiler.reset()


def test_a_table_that_was_written_reads_back_the_same(table):
    entries = [
        entry(checked_sizes=((("D", 64),),), refused=(Refused(SMALL | {"BN": 64}, "wrong: dq is off by 3.0"),)),
        entry(key=replace(FORWARD, element_bytes=2), config=None, milliseconds=None, error=None),
    ]
    assert read_entries(table(*entries)) == sorted(entries, key=lambda one: one.key.label)


@pytest.mark.parametrize(
    "content",
    ["{", "[]", '{"format": 2, "entries": []}', '{"format": 1}', '{"format": 1, "entries": [{"key": 3}]}'],
)
def test_a_corrupt_file_is_one_sentence_with_the_way_out(table, content):
    table().write_text(content)
    with pytest.raises(ValueError, match=r"cpu\.json must be a table of tuned launches .*delete it") as caught:
        run_attention()
    assert "\n" not in str(caught.value)


def test_a_value_of_the_wrong_type_is_a_corrupt_file(table):
    path = table(entry())
    content = json.loads(path.read_text())
    content["entries"][0]["config"]["BM"] = "many"
    path.write_text(json.dumps(content))
    forget_tables()
    with pytest.raises(ValueError, match="must be a table of tuned launches"):
        run_attention()


def test_names_of_gpus_become_names_of_files():
    assert slug("NVIDIA H200") == "nvidia-h200"
    assert slug("NVIDIA GeForce RTX 4090 (Laptop)") == "nvidia-geforce-rtx-4090-laptop"


def test_the_hash_of_a_source_follows_what_is_called_and_not_what_is_said(monkeypatch):
    from kernels._attention import gpu_forward

    before = source_hash(attention_fwd_kernel)
    source_hash.cache_clear()
    assert source_hash(attention_fwd_kernel) == before
    helper = gpu_forward.finish
    monkeypatch.setattr(gpu_forward, "finish", gpu_forward.fold_tile)
    source_hash.cache_clear()
    assert source_hash(attention_fwd_kernel) != before
    monkeypatch.setattr(gpu_forward, "finish", helper)
    source_hash.cache_clear()


def test_a_lookup_reads_nothing_and_is_some_calls(table):
    table(entry())
    choose(FORWARD, attention_fwd_kernel, launches.default_launch, CPU)

    def look_up():
        key = launches.launch_key("attention.forward", launches.Form(32, 32, 4, causal=True))
        choose(key, attention_fwd_kernel, launches.default_launch, CPU)

    assert calls_of(look_up) < 60, "some microseconds"
