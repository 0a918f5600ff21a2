"""What a device is called, as two processors of one name are not one device; and what is said of one that is gone."""

from pathlib import Path

import pytest
import torch

from nas.measure import device
from nas.measure.device import DeviceGone, cpu_name, while_it_answers

EPYC = {"cpu family": "25", "model": "1", "model name": "AMD EPYC", "stepping": "1"}


def name_of(fields: dict[str, str], folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name by a /proc/cpuinfo of two cores."""
    core = "".join(f"{name}\t: {value}\n" for name, value in fields.items())
    info = folder / "cpuinfo"
    info.write_text(f"processor : 0\n{core}\nprocessor : 1\n{core}")
    monkeypatch.setattr(device, "CPU_INFO", info)
    return cpu_name()


def test_a_processor_that_names_no_model_is_told_by_its_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert name_of(EPYC, tmp_path, monkeypatch) == "AMD EPYC (family 25, model 1, stepping 1)"
    later = name_of(EPYC | {"model": "17"}, tmp_path, monkeypatch)
    assert later == "AMD EPYC (family 25, model 17, stepping 1)", "another generation of the same name"
    cloud = name_of(EPYC | {"model name": "Intel(R) Xeon(R) CPU @ 2.20GHz"}, tmp_path, monkeypatch)
    assert cloud == "Intel(R) Xeon(R) CPU @ 2.20GHz (family 25, model 1, stepping 1)", "a clock is no model"


def test_a_name_with_a_model_stands_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named = EPYC | {"model name": "AMD EPYC 7763 64-Core Processor"}
    assert name_of(named, tmp_path, monkeypatch) == "AMD EPYC 7763 64-Core Processor"
    assert name_of({"model name": "Neoverse"}, tmp_path, monkeypatch) == "Neoverse"


def test_an_error_after_which_a_gpu_answers_no_more_is_one_sentence() -> None:
    with pytest.raises(DeviceGone) as caught, while_it_answers(torch.device("cuda:1")):
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nCompile with TORCH_USE_CUDA_DSA\n")
    assert str(caught.value) == (
        "cuda:1 does not answer any more (CUDA error: an illegal memory access was encountered); what is finished is "
        "kept, and the same command goes on once the device is back."
    )
    assert caught.value.__suppress_context__


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA error: out of memory\nTried to allocate 2 GiB"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        ValueError("CUDA error: said by something else"),
    ],
    ids=["out of memory", "another rule", "another kind"],
)
def test_an_error_that_a_gpu_survives_passes_as_it_is(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, while_it_answers(torch.device("cuda")):
        raise error
    assert caught.value is error
