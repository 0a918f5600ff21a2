"""The kernel benchmark: no time for a wrong result, costs that are true, runs that go on where they stopped."""

import json
from dataclasses import replace

import pytest
import torch

import kernels
from kernels._attention import portable
from kernels.backend import OPERATIONS
from nas.devices import spec_from
from nas.measurement import Measurement
from scripts import benchmark_kernels
from scripts.kernel_lab.attention_operations import Attention, AttentionStep
from scripts.kernel_lab.attention_problems import FLA_SHAPES
from scripts.kernel_lab.operations import GroupedMatmul, Mlstm, Recurrence
from scripts.kernel_lab.problem_lists import LAYERS, benchmark_problems, launch_problems, tiny_problems
from scripts.kernel_lab.problems import check, worst
from scripts.kernel_lab.rows import COPY, read, right_row, table_line, write
from scripts.kernel_lab.sparse_operations import BlockSparseAttention
from scripts.provenance import commit


def run(tmp_path, *arguments):
    return benchmark_kernels.main(
        ["--tiny", "--device", "cpu", "--seconds", "0.01", "--out", str(tmp_path), *arguments]
    )


def test_every_function_of_the_door_has_problems_in_every_list():
    functions = {*OPERATIONS, "mlstm", "mlstm_step"}
    for problems in (benchmark_problems("cuda"), benchmark_problems("cpu"), launch_problems(), tiny_problems()):
        assert {problem.op for problem in problems} == functions
        assert len({(one.op, one.name, one.dtype) for one in problems}) == len(problems)


def test_attention_and_every_recurrence_are_timed_at_the_six_shapes_of_flas_benchmark():
    names = {(one.op, one.name) for one in benchmark_problems("cuda")}
    rows = [("attention", "causal "), ("mlstm", ""), *(("matrix_recurrence", f"{layer} ") for layer in LAYERS)]
    shapes = [f"B{B} T{T} H{H} D{D}" for B, T, H, D in FLA_SHAPES]
    assert len(shapes) == 6
    assert not {(op, f"{row}{shape}") for op, row in rows for shape in shapes} - names


@pytest.mark.parametrize("problem", tiny_problems(), ids=lambda one: f"{one.op} {one.name}")
def test_the_portable_kernels_give_the_right_answers(problem):
    inputs = problem.make_inputs("cpu")
    with kernels.use_backend("portable"):
        result = problem.run(inputs)
    assert set(result.gradients) == set(problem.operation.differentiable)
    checks = problem.errors(result, problem.reference(inputs))
    assert worst(checks).passes, worst(checks)


def test_inputs_follow_the_seed():
    problem = tiny_problems()[0]
    first, same, other = (problem.make_inputs("cpu", seed=seed).arguments["q"] for seed in (0, 0, 1))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_rows_own_error_is_seen_beside_many_right_rows():
    right = torch.randn(1000, 16, generator=torch.Generator().manual_seed(0))
    assert check("o", right, right, 1e-2).passes
    one_row = right.clone()
    one_row[-1] *= 1.25
    found = check("o", one_row, right, 1e-2)
    assert found.error < found.limit
    assert not found.passes
    assert not check("o", torch.full_like(right, float("nan")), right, 1e-2).passes
    assert not check("o", right[:-1], right, 1e-2).passes


def test_costs_are_what_a_hand_counts():
    attention = Attention(B=2, T=4, Hq=3, Hkv=1, D=16)
    assert attention.forward_cost(2).flops == 4 * 2 * 3 * 16 * (1 + 2 + 3 + 4)
    assert replace(attention, causal=False).forward_cost(2).flops == 4 * 2 * 3 * 16 * 16
    assert replace(attention, window=2).forward_cost(2).flops == 4 * 2 * 3 * 16 * (1 + 2 + 2 + 2)
    assert attention.forward_cost(2).bytes == 2 * (2 * 2 * 4 * 3 * 16 + 2 * 2 * 4 * 1 * 16)
    selected = BlockSparseAttention(B=2, T=8, Hq=3, Hkv=1, D=16, block_size=2, chosen=2)
    assert selected.forward_cost(2).flops == 4 * 2 * 3 * 16 * (1 + 2 + 3 + 4 + 3 + 4 + 3 + 4)
    assert replace(attention, T=6, window=2, num_global=1).forward_cost(2).flops == 4 * 2 * 3 * 16 * (1 + 2 + 4 * 3)
    assert replace(attention, prefix=3).forward_cost(2).flops == 4 * 2 * 3 * 16 * (3 + 3 + 3 + 4)
    assert replace(attention, Dv=32).forward_cost(2).flops == 2 * 2 * 3 * (16 + 32) * (1 + 2 + 3 + 4)
    assert AttentionStep(B=1, S=10, Hq=2, Hkv=1, D=16).forward_cost(2).bytes == 2 * (2 * 10 * 16 + 2 * 2 * 16)
    latent = AttentionStep(B=1, S=10, Hq=2, Hkv=1, D=48, Dv=32, latent=True)
    assert latent.forward_cost(2).bytes == 2 * (10 * 48 + 2 * (48 + 32)), "the cache is read once"
    # A full chunk of simple linear attention with K = V = D: 4 C D + 4 D² for each token and head.
    recurrence = Recurrence(B=1, T=64, Hqk=2, Hv=2, K=32, V=32, gate="head")
    assert recurrence.forward_cost(2).flops == 64 * 2 * (4 * 64 * 32 + 4 * 32 * 32)
    memories = Mlstm(B=1, T=64, Hqk=1, Hv=2, K=32, V=31)
    assert memories.forward_cost(2).flops == recurrence.forward_cost(2).flops, "a column beside v is one more value"
    assert memories.forward_cost(2).bytes == 64 * (2 * 2 * (32 + 2 * 31) + 4 * 2 * 2)
    assert GroupedMatmul(M=5, E=2, K=3, N=4).forward_cost(4).flops == 2 * 5 * 3 * 4


def test_the_listed_blocks_are_as_many_as_the_cost_says():
    operation = BlockSparseAttention(B=1, T=64, Hq=2, Hkv=1, D=16, block_size=8, chosen=3)
    problem = replace(tiny_problems()[0], operation=operation)
    blocks = problem.make_inputs("cpu").arguments["blocks"][0, :, 0]
    mask = (blocks.unsqueeze(2) == torch.arange(64) // 8).any(1)
    seen = int((mask & torch.ones(64, 64, dtype=torch.bool).tril()).sum())
    assert operation.forward_cost(2).flops == 4 * 2 * 16 * seen


def test_a_run_writes_its_rows_and_a_second_one_has_nothing_left_to_do(tmp_path, capsys):
    assert run(tmp_path, "--op", "attention_step", "--tflops", "0.1", "--bandwidth", "10") == 0
    record = json.loads((tmp_path / "kernels.json").read_text())
    rows = {row["name"]: row for row in record["rows"]}
    assert set(rows) == {"ours", "sdpa step"}
    assert all(row["status"] == "right" and row["error"] < 1e-5 for row in rows.values())
    median, low, high = rows["ours"]["milliseconds"]
    assert 0 < low <= median <= high
    assert 0 < rows["ours"]["roofline"] < 1
    assert "| ours |" in (tmp_path / "kernels.md").read_text()
    assert record["environment"]["commit"] == commit()
    assert all(row["copy_share"] is None for row in rows.values()), "of a CPU no copy is measured"
    capsys.readouterr()
    assert run(tmp_path, "--op", "attention_step") == 0
    assert "attention_step" not in capsys.readouterr().out
    assert json.loads((tmp_path / "kernels.json").read_text()) == record


def test_a_run_of_another_commit_begins_anew(tmp_path, monkeypatch, capsys):
    assert run(tmp_path, "--op", "attention_step") == 0
    capsys.readouterr()
    monkeypatch.setattr(benchmark_kernels, "commit", lambda: "another")
    assert run(tmp_path, "--op", "attention_step") == 0
    assert "attention_step" in capsys.readouterr().out
    assert json.loads((tmp_path / "kernels.json").read_text())["environment"]["commit"] == "another"


def test_a_copy_is_timed_over_buffers_in_rotation_and_counts_what_is_read_and_written(monkeypatch):
    timed = []

    def two_milliseconds(calls, device, *, seconds):
        timed.extend(call() for call in calls)
        return Measurement(value=2.0, unit="ms", low=2.0, high=2.0, n=1)

    monkeypatch.setattr(benchmark_kernels, "time_call", two_milliseconds)
    found = benchmark_kernels.copy_bandwidth(torch.device("cpu"), 1.0, size=1_000_000)
    assert found == 1.0, "two megabytes in two milliseconds"
    assert len({one.data_ptr() for one in timed}) == len(timed) > 1
    assert all(one.numel() == 1_000_000 for one in timed)


def test_rows_bound_by_bytes_have_their_share_of_a_copy_and_a_second_run_keeps_it(tmp_path):
    spec = spec_from({"tflops": 1000, "bandwidth": 10, "memory": 1})
    step = next(one for one in tiny_problems() if one.op == "attention_step")
    right = check("o", torch.ones(2, 2), torch.ones(2, 2), 1e-5)
    timing = Measurement(value=step.cost("forward").bytes / 4e6, unit="ms", low=1.0, high=1.0, n=1)  # 4 GB/s
    row = right_row(step, "forward", "ours", right, timing, spec, {}, 8.0)
    assert (row.bound, row.roofline, row.copy_share) == ("bytes", pytest.approx(0.4), pytest.approx(0.5))
    assert "40% of bytes, 50% of a copy" in table_line(row)
    slow = spec_from({"tflops": 1e-9, "bandwidth": 10, "memory": 1})
    assert right_row(step, "forward", "ours", right, timing, slow, {}, 8.0).copy_share is None
    here: dict[str, object] = {"name": "a GPU", "commit": "one"}
    write([row], here | {COPY: 8.0}, tmp_path)
    assert read(tmp_path, here) == ([row], 8.0)
    assert read(tmp_path, here | {"commit": "two"}) == ([], None)


def test_a_wrong_result_has_no_time_and_fails_the_run(tmp_path, monkeypatch):
    right = portable.attention_step
    monkeypatch.setattr(portable, "attention_step", lambda *given: (right(*given)[0] * 1.01, None))
    assert run(tmp_path, "--op", "attention_step") == 1
    rows = {row["name"]: row for row in json.loads((tmp_path / "kernels.json").read_text())["rows"]}
    assert rows["ours"]["status"] == "wrong"
    assert rows["ours"]["milliseconds"] is None
    assert rows["ours"]["error"] == pytest.approx(0.01, rel=1e-3)
    assert rows["sdpa step"]["status"] == "right"


def test_an_implementation_that_raises_is_a_row_and_the_others_are_measured(tmp_path, monkeypatch):
    def broken(*given):
        raise RuntimeError("out of registers")

    monkeypatch.setattr(portable, "attention_step", broken)
    assert run(tmp_path, "--op", "attention_step") == 1
    written = json.loads((tmp_path / "kernels.json").read_text())["rows"]
    rows = {row["name"]: row for row in written if row["problem"] == "step"}
    assert (rows["ours"]["status"], rows["ours"]["reason"]) == ("failed", "RuntimeError: out of registers")
    assert rows["sdpa step"]["milliseconds"] is not None


def test_the_limit_stops_before_the_next_problem(tmp_path, capsys):
    assert run(tmp_path, "--limit", "0") == benchmark_kernels.UNFINISHED
    assert "The time is up before attention causal" in capsys.readouterr().out
