"""Described devices: what ships parses, what a user describes is checked, and the bound is right by hand."""

from pathlib import Path

import pytest

from nas.devices import FOLDER, DeviceError, DeviceSpec, described_devices, find_spec, read_spec, slug_of, spec_from

PLAIN = {"tflops": 989, "bandwidth": 4800, "memory": 141}


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_description_parses_and_says_where_its_numbers_come_from(path: Path) -> None:
    spec = read_spec(path)
    assert spec == described_devices()[path.stem]
    assert spec.slug == path.stem
    assert spec.source != "given by the user"
    assert find_spec(spec.name) == spec
    assert all(0.1 < value < 10_000 for value in spec.tflops.values())
    assert 10 < spec.bandwidth < 100_000
    assert spec.to_dict() == DeviceSpec(**spec.to_dict()).to_dict()


def test_the_promised_devices_are_shipped() -> None:
    assert {"h200", "h100", "a100", "rtx4090"} <= set(described_devices())


def test_a_cpu_is_shipped_under_the_name_that_it_gives_itself() -> None:
    cpus = [spec for spec in described_devices().values() if spec.name.endswith(" cores")]  # nas.measure.device_name
    assert cpus, "no CPU is described"
    for spec in cpus:
        assert spec.dtype == "float32" and spec.source.startswith("measured with torch")
        assert spec.slug == slug_of(spec.name)


def test_the_bound_of_a_matrix_product_on_an_h200_is_right_by_hand() -> None:
    h200 = described_devices()["h200"]
    n = 8192
    flops, moved = 2 * n**3, 3 * n * n * 2
    assert h200.milliseconds(flops, moved, "bfloat16") == pytest.approx(1.09951e12 / 989e12 * 1e3, rel=1e-4)
    vector = 2 * n * n * 2  # a product with a vector moves the matrix and computes hardly anything
    assert h200.milliseconds(2 * n * n, vector, "bfloat16") == pytest.approx(268435456 / 4.8e12 * 1e3)
    assert h200.milliseconds(flops, moved, "float32") == pytest.approx(1.09951e12 / 67e12 * 1e3, rel=1e-4)


def test_a_device_is_found_by_the_name_it_gives_itself() -> None:
    found = find_spec("NVIDIA H200")
    assert found is not None and found.slug == "h200"
    assert find_spec("NVIDIA H20") is None
    assert find_spec("NVIDIA H200 NVL") is None
    assert slug_of("Intel(R) Xeon(R) @ 2.70GHz, 2 cores") == "intel-xeon-2-70ghz-2-cores"


def test_three_numbers_describe_a_device() -> None:
    spec = spec_from(PLAIN)
    assert spec.tflops == {"bfloat16": 989.0}
    assert (spec.bandwidth, spec.memory_bytes, spec.dtype) == (4800.0, 141_000_000_000, "bfloat16")
    assert spec.flops_per_second("float32") == spec.flops_per_second("float16") == 989e12


def test_a_device_without_half_precision_is_served_in_float32() -> None:
    spec = spec_from({**PLAIN, "tflops": {"float32": 0.1}})
    assert spec.dtype == "float32"
    assert spec.flops_per_second("bfloat16") == 0.1e12


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"tflops": 989, "bandwidth": 4800}, r"must give tflops .* but memory is missing\."),
        ({}, "tflops, bandwidth, memory is missing"),
        ({**PLAIN, "bandwith": 1}, r"no measure\.device\.bandwith\. Did you mean 'bandwidth'\?"),
        ({**PLAIN, "tflops": {"float8": 1}}, r"no dtype 'float8' in measure\.device\.tflops"),
        ({**PLAIN, "tflops": {}}, r"measure\.device\.tflops must be a number or numbers by dtype"),
        ({**PLAIN, "tflops": "fast"}, r"measure\.device\.tflops\.bfloat16 must be a number above zero, but got 'fast'"),
        ({**PLAIN, "bandwidth": 0}, r"measure\.device\.bandwidth must be a number above zero, but got 0"),
        ({**PLAIN, "memory": float("inf")}, r"measure\.device\.memory must be a number above zero, but got inf"),
        ({**PLAIN, "memory": True}, r"measure\.device\.memory must be a number above zero, but got True"),
        ({**PLAIN, "cache_mb": "big"}, r"measure\.device\.cache_mb must be a number above zero, but got 'big'"),
        ({**PLAIN, "cache_mb": -1}, r"measure\.device\.cache_mb must be a number above zero, but got -1"),
    ],
)
def test_a_mistake_in_a_description_is_one_sentence(given: dict, says: str) -> None:
    with pytest.raises(DeviceError, match=says) as caught:
        spec_from(given)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("text", "says"), [("- 1", "must be fields"), ("{a: [", "cannot be read")])
def test_a_file_that_is_no_description_is_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(text)
    with pytest.raises(DeviceError, match=says) as caught:
        read_spec(path)
    assert "\n" not in str(caught.value)
