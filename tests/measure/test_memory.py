"""Peak memory to the byte, and what does not fit."""

from dataclasses import dataclass

import pytest
import torch

from nas.measure.memory import (
    DoesNotFit,
    available_bytes,
    check_fits,
    out_of_memory_is_a_result,
    peak_bytes,
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


def test_what_does_not_fit_is_told_by_how_much() -> None:
    available = available_bytes(CPU)
    if available is None:
        pytest.skip("this system does not say how much memory is free")
    check_fits(1, "A byte", CPU)
    with pytest.raises(DoesNotFit, match=r"The state need 10,000,000,000,000,000 bytes, which is .* more than cpu has"):
        check_fits(10**16, "The state", CPU)


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
