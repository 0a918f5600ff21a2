"""The device at hand, described by measuring it."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nas.devices import described_devices
from nas.measure import calibrate
from nas.measure.calibrate import measured_spec, spec_of
from nas.measure.memory import available_bytes, total_bytes
from tests.measure.examples import CPU


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch):
    """Small matrices, so that a test takes a moment."""
    monkeypatch.setattr(calibrate, "SIZES", {"cpu": 256})
    monkeypatch.setattr(calibrate, "BYTES", {"cpu": 4_000_000})
    measured_spec.cache_clear()
    yield
    measured_spec.cache_clear()


def test_this_machine_is_described_by_numbers_that_a_machine_can_have(fast) -> None:
    spec = measured_spec(CPU, 0.05)
    assert set(spec.tflops) == {"float32"}
    assert 0.0005 < spec.tflops["float32"] < 100
    assert 0.1 < spec.bandwidth < 10_000
    free = available_bytes(CPU)
    assert free is not None and free <= total_bytes(CPU)
    assert spec.memory_bytes == pytest.approx(total_bytes(CPU), abs=1e8)
    assert spec.source.startswith("measured with torch")
    assert spec.slug and spec.slug != "described"


def test_a_device_is_measured_once_in_a_process(fast) -> None:
    assert measured_spec(CPU, 0.05) is measured_spec(CPU, 0.05)


def test_a_shipped_description_goes_before_measuring(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def never(*_: object) -> None:
        raise AssertionError("nothing needs to be measured")

    monkeypatch.setattr(calibrate, "device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(calibrate, "measured_spec", never)
    assert spec_of(torch.device("cuda"), tmp_path) == described_devices()["h200"]
    here = replace(described_devices()["h200"], memory=calibrate.total_gb(CPU))
    assert spec_of(CPU, tmp_path) == here, "the memory beside a processor is the machine's"


def test_an_unknown_device_is_measured_once_and_for_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    odd = replace(described_devices()["h200"], name="some other processor")
    answers = [odd]
    monkeypatch.setattr(calibrate, "device_name", lambda device: odd.name)
    monkeypatch.setattr(calibrate, "measured_spec", lambda device: answers.pop())
    first, second = spec_of(CPU, tmp_path / "new"), spec_of(CPU, tmp_path / "new")
    assert first == second == replace(odd, memory=calibrate.total_gb(CPU)) and first.slug == "some-other-processor"
