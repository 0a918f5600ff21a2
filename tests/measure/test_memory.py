"""Peak memory to the byte, and what does not fit."""

import weakref
from dataclasses import dataclass

import pytest
import torch

from nas.measure.memory import (
    DoesNotFit,
    out_of_memory_is_a_result,
    peak_bytes,
    peak_memory,
    saved_for_backward_bytes,
    storage_bytes,
)

CPU = torch.device("cpu")
MIB = 1 << 20


def test_the_peak_of_a_call_is_what_it_holds_at_once() -> None:
    def call() -> torch.Tensor:
        a = torch.empty(2 * MIB, dtype=torch.uint8)
        b = torch.empty(3 * MIB, dtype=torch.uint8)
        del a
        c = torch.empty(1 * MIB, dtype=torch.uint8)
        del b
        return c

    assert peak_bytes(call, CPU) == 5 * MIB


def test_temporaries_inside_an_operator_are_seen() -> None:
    x = torch.zeros(MIB // 4)
    # Its result is 4 bytes; the exponentials that it sums never leave the operator.
    assert peak_bytes(lambda: torch.logsumexp(x, 0), CPU) >= MIB


def test_memory_held_before_a_call_is_not_its_own() -> None:
    held = torch.empty(4 * MIB, dtype=torch.uint8)
    assert peak_bytes(lambda: held[:10], CPU) == 0


def test_storages_are_counted_once_through_any_nest() -> None:
    @dataclass
    class Nest:
        layers: list[dict[str, torch.Tensor]]
        position: int

    x = torch.zeros(10)
    nest = Nest(layers=[{"a": x, "b": x[2:]}, {"c": torch.zeros(3, dtype=torch.float64)}], position=4)
    assert storage_bytes((nest, None, [x])) == 40 + 24


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=["gpu", "cpu", "python"],
)
def test_running_out_of_memory_is_a_result(error: Exception) -> None:
    with pytest.raises(DoesNotFit, match="ran out of memory on cpu"), out_of_memory_is_a_result(CPU):
        raise error


def test_other_errors_pass_as_they_are() -> None:
    with pytest.raises(RuntimeError, match="shapes differ"), out_of_memory_is_a_result(CPU):
        raise RuntimeError("shapes differ")


def test_only_a_gpu_has_reserves() -> None:
    peak = peak_memory(lambda: torch.empty(MIB, dtype=torch.uint8), CPU)
    assert (peak.allocated, peak.reserved) == (MIB, None)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_reserves_at_least_what_is_allocated() -> None:
    peak = peak_memory(lambda: torch.empty(3 * MIB, dtype=torch.uint8, device="cuda"), torch.device("cuda"))
    assert peak.allocated == 3 * MIB
    assert peak.reserved is not None
    assert peak.reserved >= 3 * MIB


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_what_is_kept_for_the_backward_pass_is_counted_once_and_without_parameters(device: str) -> None:
    weight = torch.nn.Parameter(torch.ones(10, 10, device=device))
    x = torch.ones(5, 10, device=device)

    def forward() -> torch.Tensor:
        hidden = x @ weight.t()  # keeps x
        gate = hidden.exp()  # keeps its result
        return gate * gate[:, :1] @ weight  # keeps the gate, again and as a view, the product, and the weight

    assert saved_for_backward_bytes(forward) == 4 * 50 * 3
    with torch.no_grad():
        assert saved_for_backward_bytes(forward) == 0


def test_counting_what_is_kept_keeps_nothing() -> None:
    weight = torch.nn.Parameter(torch.ones(MIB))
    x = torch.ones(MIB)
    kept = []

    def forward() -> torch.Tensor:
        y = (x * weight).exp()
        kept.append(weakref.ref(y.untyped_storage()))
        return y

    assert saved_for_backward_bytes(forward) == 8 * MIB
    is_alive = kept[0]() is not None
    assert not is_alive
