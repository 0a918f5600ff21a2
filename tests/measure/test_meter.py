"""Every meter gives the same numbers under the same names, and each number says where it came from."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nas.architecture import Architecture, Attention, Block, Glu, Mamba2, turned
from nas.count import count, count_parameters, count_state_bytes
from nas.deployment import Deployment
from nas.measure import DoesNotFit, TableError, meter, open_meter, prediction
from nas.measure.block_table import BlockTable
from nas.measure.calibrate import spec_of
from nas.measure.device import pinned_threads
from nas.measure.meter import ModelMeter, RooflineMeter, TableMeter
from nas.measure.prediction import NotInTable, TableReader
from nas.measure.table_parts import parts_of
from nas.measure.whole_model import Measured
from nas.measurement import Measurement
from nas.objectives import OBJECTIVES
from nas.workload import DENOISED, QUANTITIES, Decode, WorkloadError
from tests.measure.counted_work import CountedWork, counting_work
from tests.measure.examples import ATTENTION, CPU, DECODE, GLU, MAMBA2, MOE, SPEC, D, bench, entry, network

HYBRID = network(Block(mixer=ATTENTION, ffn=GLU), Block(mixer=MAMBA2, ffn=MOE))
CHOOSY = replace(MOE, choice="experts")
DENOISER = Architecture(
    d_model=D,
    vocab_size=64,
    loss="masked_diffusion",
    blocks=tuple(turned(block, "both") for block in (Block(mixer=ATTENTION, ffn=CHOOSY), Block(mixer=MAMBA2, ffn=GLU))),
)
ALL = {"workloads": ["serve", "prefill", "decode", "train_step"], "prompt": 32, "new_tokens": 32, "batch": 2}
H200 = {"device": "h200", "cost_model": "roofline"}


@pytest.fixture(autouse=True)
def one_thread():
    with pinned_threads(1):
        yield


@pytest.fixture(scope="module")
def described():
    """This machine is a toy device, which need not be measured, and has no rivals."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meter, "spec_of", lambda device, folder: SPEC)
        patch.setattr(meter, "verified_rivals", lambda device, dtype, gradients: {})
        patch.setattr(prediction, "ENOUGH", 1)
        yield


@pytest.fixture(scope="module")
def filled(described, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Measured]:
    """A folder with a table of HYBRID's blocks in all phases, by the work that they are, and what it predicts."""
    folder = tmp_path_factory.mktemp("tables")
    with pytest.MonkeyPatch.context() as patch, pinned_threads(1), counting_work(patch):
        return folder, open_meter(deployment(device="cpu", method="table", **ALL), folder).measure(HYBRID)


def deployment(**config: Any) -> Deployment:
    given = {"parameters": None, "width": 1.0, "tokens": 16, "threads": 1, "seconds": 0.2, "block_seconds": 0.02}
    return Deployment.from_config(given | config)


def check_numbers(measured: Measured, source: str) -> None:
    """Every number is that of an objective, in its unit, and ordered."""
    for name, number in measured.numbers.items():
        assert number.unit == OBJECTIVES[name].unit, name
        assert 0 <= number.low <= number.value <= number.high, name
        assert number.source in (source, "counted"), name
        assert (number.source == "counted") == (name == "optimizer_bytes"), name
    assert measured.numbers.keys() >= set(QUANTITIES)


def test_the_deployment_chooses_the_meter(described, tmp_path: Path) -> None:
    assert isinstance(open_meter(deployment(device="cpu"), tmp_path), ModelMeter)
    table, auto = (open_meter(deployment(device="cpu", method=method), tmp_path) for method in ("table", "auto"))
    assert isinstance(table, TableMeter) and isinstance(auto, TableMeter)
    assert isinstance(open_meter(deployment(**H200), tmp_path), RooflineMeter)
    assert list(tmp_path.iterdir()) == [], "opening writes nothing"


def test_bounds_of_a_described_device_are_estimates_all_of_them(tmp_path: Path) -> None:
    opened = open_meter(deployment(**ALL, **H200), tmp_path)
    measured = opened.measure(HYBRID)
    check_numbers(measured, "estimate")
    others = {"train_peak_memory_bytes", "optimizer_bytes", "sequences_that_fit"}
    assert measured.numbers.keys() >= set(QUANTITIES) | others
    assert set(measured.costs) == {"roofline"}
    for quantity, bound in measured.costs["roofline"].items():
        assert measured.numbers[quantity] == bound
        assert bound.notes == ("roofline of NVIDIA H200, bfloat16",)
    assert opened.confirm(HYBRID) is None
    assert opened.describe()["costs"] == "estimates: roofline"
    assert opened.describe()["roofline"]["name"] == "NVIDIA H200"


def test_what_keeps_nothing_of_a_text_reads_it_again_for_every_token(tmp_path: Path) -> None:
    asked = deployment(**ALL, **H200)
    measured = open_meter(asked, tmp_path).measure(DENOISER)
    check_numbers(measured, "estimate")
    times = {name: number.value for name, number in measured.numbers.items()}
    passes = deployment(**(ALL | {"prompt": 64 + DENOISED, "batch": 1, "workloads": "prefill"}), **H200)
    assert (
        times["decode_latency_ms"] == open_meter(passes, tmp_path).measure(DENOISER).numbers["prefill_latency_ms"].value
    )
    assert times["time_per_output_token_ms"] < times["decode_latency_ms"]
    assert times["sequences_that_fit"] == pytest.approx(141e9 / (8 * 64), rel=0.1), "8 bytes a token"
    assert count(DENOISER, 64).flops_decode > 10 * count(HYBRID, 64).flops_decode


def test_a_table_has_the_passes_of_what_denoises(described, tmp_path: Path) -> None:
    small = ALL | {"workloads": ["serve", "train_step"], "prompt": 8, "new_tokens": 8, "tokens": 8}
    opened = open_meter(deployment(device="cpu", method="table", **small), tmp_path)
    assert isinstance(opened, TableMeter)
    with pytest.MonkeyPatch.context() as patch, counting_work(patch):
        measured = opened.measure(DENOISER)
    assert set(measured.costs) == {"own", "best", "roofline"}
    assert all(number.value > 0 for costs in measured.costs.values() for number in costs.values())
    assert not any(isinstance(entry.phase, Decode) for entry in opened.reader.table.entries.values())


@pytest.mark.parametrize("config", [H200, {"device": "cpu", "method": "table"}, {"device": "cpu"}], ids=str)
def test_every_number_that_may_be_asked_for_is_given(config: dict[str, Any], described, tmp_path: Path) -> None:
    """Else every trial would fail at the objective that reads it."""
    asked, names = deployment(prompt=8, new_tokens=8, batch=1, **config), []
    for name in (o.name for o in OBJECTIVES.values() if o.stage == "measure"):
        try:
            asked = asked.asked_for([name])
        except WorkloadError:
            assert config != {"device": "cpu"}, "whole networks can be asked for everything"
            continue
        names.append(name)
    assert len(names) >= 10
    assert open_meter(asked, tmp_path).measure(network(Block(mixer=ATTENTION, ffn=GLU))).numbers.keys() >= set(names)


def test_a_network_that_a_described_device_cannot_hold_does_not_fit(tmp_path: Path) -> None:
    toy = {"tflops": 1, "bandwidth": 100, "memory": 0.001}
    small = deployment(device=toy, cost_model="roofline", workloads=["decode"], context=5000, batch=4, dtype="float32")
    with pytest.raises(DoesNotFit) as caught:
        open_meter(small, tmp_path).measure(HYBRID)
    message = str(caught.value)
    assert "more than a described device has free; the longest context that fits is" in message
    longest = int(message.split("fits is ")[1].split(" ")[0].replace(",", ""))
    weights = 4 * count_parameters(HYBRID)
    needed = [weights + 4 * count_state_bytes(HYBRID, longest + n, dtype=torch.float32) for n in (1, 2)]
    assert "decoding 4 sequences" in message, "the phase that needs most decides"
    assert needed[0] <= 1_000_000 < needed[1], "decoding at the context needs room for the new token"
    fitting = replace(small, workload=replace(small.workload, context=longest))
    assert open_meter(fitting, tmp_path).measure(HYBRID).numbers["batched_decode_latency_ms"].value > 0


def test_the_sequences_that_fit_are_those_of_the_memory_beside_weights(tmp_path: Path) -> None:
    given = deployment(device={"tflops": 1, "bandwidth": 100, "memory": 1}, cost_model="roofline", prompt=100)
    numbers = open_meter(given, tmp_path).measure(HYBRID).numbers
    counts = count(HYBRID, given.workload.length, dtype=torch.bfloat16)
    room = (1_000_000_000 - counts.weight_bytes) // counts.sequence_bytes
    assert numbers["sequences_that_fit"].value == room


def test_a_described_device_without_a_table_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(
        WorkloadError, match=r"needs a table of NVIDIA H200, but none is shipped and none lies at .*h200"
    ):
        open_meter(deployment(device="h200", method="table"), tmp_path)


def test_a_described_devices_table_that_no_code_at_hand_made_is_one_sentence(tmp_path: Path) -> None:
    """Else every trial would be rejected for want of blocks."""
    given = deployment(device="h200", method="table", dtype="float32")
    assert given.spec is not None
    one, other = entry(ATTENTION, 1.0), entry(GLU, 1.0)
    table = BlockTable(given.spec.name, tmp_path / "h200.json")
    for stale in (replace(e, operations={**e.operations, "nas.layers.norm": "0123456789ab"}) for e in (one, other)):
        table.add(stale)
    table.save()
    with pytest.raises(WorkloadError, match=r"All 2 blocks in the table of NVIDIA H200 were measured with other code"):
        open_meter(given, tmp_path)
    table.add(one)
    table.save()
    assert isinstance(open_meter(given, tmp_path), TableMeter), "one that is true will do"


def test_a_table_of_another_device_is_refused(described, tmp_path: Path) -> None:
    path = tmp_path / "other.json"
    table = BlockTable("NVIDIA H200", path)
    table.add(entry(ATTENTION, 1.0))
    table.save()
    with pytest.raises(TableError, match="was measured on NVIDIA H200, but toy device is wanted"):
        open_meter(deployment(device="cpu", method="table", table=str(path)), tmp_path)


def test_a_described_device_is_predicted_from_its_table_and_what_that_lacks_is_not_known(tmp_path: Path) -> None:
    toy = SPEC.to_dict()
    given = deployment(device=toy, method="table", dtype="float32", workloads=["decode"], batch=1, context=64)
    table = BlockTable(SPEC.name, tmp_path / "described.json")
    for part in parts_of(HYBRID):
        table.add(entry(part, 2.0, best=1.0, phase=DECODE))
    table.save()
    opened = open_meter(given, tmp_path)
    measured = opened.measure(HYBRID)
    assert measured.numbers["decode_latency_ms"].value == 2.0 * 5
    assert measured.costs["best"]["decode_latency_ms"].value == 1.0 * 5
    with pytest.raises(NotInTable, match="lacks 1 blocks of this architecture, the first glu d_ff=512"):
        opened.measure(network(Block(mixer=ATTENTION, ffn=Glu(d_ff=512))))
    assert opened.confirm(HYBRID) is None
    assert opened.describe()["costs"] == "predicted from 5 measured blocks"


@pytest.mark.parametrize("cost_model", ["own", "best", "roofline"])
def test_the_cost_model_chooses_which_times_count_and_all_are_kept(cost_model, tmp_path: Path) -> None:
    table = BlockTable(SPEC.name, tmp_path / "described.json")
    for part in parts_of(HYBRID):
        table.add(entry(part, 2.0, best=1.0, phase=Decode(batch=1, context=64)))
    table.save()
    config = {"workloads": ["decode"], "batch": 1, "context": 64, "dtype": "float32", "cost_model": cost_model}
    measured = open_meter(deployment(device=SPEC.to_dict(), method="table", **config), tmp_path).measure(HYBRID)
    assert set(measured.costs) == {"own", "best", "roofline"}
    number = measured.numbers["decode_latency_ms"]
    assert number == measured.costs[cost_model]["decode_latency_ms"]
    assert number.source == ("estimate" if cost_model == "roofline" else "table")


def test_the_first_networks_are_measured_whole_and_what_they_take_beyond_their_blocks_is_learned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(prediction, "ENOUGH", 2)
    table = BlockTable(SPEC.name, tmp_path / "toy-device.json")
    for part in (*parts_of(HYBRID), Glu(d_ff=96)):
        table.add(entry(part, 2.0, best=1.0, phase=DECODE))
    table.save()
    asked: list[Architecture] = []

    class Whole:
        def measure(self, architecture: Architecture) -> Measured:
            asked.append(architecture)
            return Measured(numbers={}, costs={"own": {"decode_latency_ms": Measurement.exact(15.0, "ms")}})

    given = deployment(device="cpu", workloads=["decode"], batch=1, context=64, method="table")
    given = replace(given, quantities=("decode_latency_ms",))
    opened = TableMeter(given, SPEC, TableReader(table, SPEC, "float32", bench()), Whole())  # type: ignore[arg-type]
    other = network(Block(mixer=ATTENTION, ffn=Glu(d_ff=96)))
    times = [opened.measure(a).costs["own"]["decode_latency_ms"] for a in (HYBRID, HYBRID, other, HYBRID, other)]
    assert asked == [HYBRID, other], "each once, and no more than are enough"
    assert times[0].value == times[3].value == 15.0, "10 ms of blocks took 15 with the change of the mixer"
    assert times[-1].value == 6.0, "no change, no loss"
    assert "times 1.500, learned from whole networks (1)" in times[0].notes
    again = BlockTable.open(SPEC.name, tmp_path / "toy-device.json")
    assert {whole.sum_ms for whole in again.wholes.values()} == {10.0, 6.0}
    assert opened.confirm(HYBRID) is None, "measure=table predicts its front too"


def test_a_measured_table_says_so_and_is_used_again(filled) -> None:
    folder, measured = filled
    check_numbers(measured, "table")
    assert set(measured.costs) == {"own", "best", "roofline"}
    file = folder / f"{SPEC.slug}.json"
    written = file.stat().st_mtime_ns
    twice = network(*HYBRID.blocks, *HYBRID.blocks)
    again = open_meter(deployment(device="cpu", method="table", **ALL), folder).measure(twice)
    assert file.stat().st_mtime_ns == written, "blocks that are known are not measured again"
    for quantity in QUANTITIES:
        assert again.numbers[quantity].value > measured.numbers[quantity].value


def test_predicted_memory_is_near_what_a_measurement_gives(filled) -> None:
    folder, predicted = filled
    confirmed = open_meter(deployment(device="cpu", method="auto", **ALL), folder).confirm(HYBRID)
    assert confirmed is not None
    check_numbers(confirmed, "measured")
    assert confirmed.numbers.keys() > predicted.numbers.keys()
    for name in ("peak_memory_bytes", "train_peak_memory_bytes", "optimizer_bytes"):
        assert predicted.numbers[name].value == pytest.approx(confirmed.numbers[name].value, rel=0.1), name


def test_a_table_agrees_with_measuring_whole_networks(
    counted_work: CountedWork, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Of the work that is done; how near real times come is what scripts/benchmark_measurement.py tells."""
    monkeypatch.setattr(prediction, "ENOUGH", 0)  # sums of blocks alone
    monkeypatch.setattr(meter, "verified_rivals", lambda device, dtype, gradients: {})  # which takes seconds
    attention = Block(mixer=Attention(num_heads=4, head_dim=64), ffn=Glu(d_ff=512))
    mamba = Block(mixer=Mamba2(num_heads=4, head_dim=64, state_dim=16), ffn=Glu(d_ff=512))
    designs = [
        Architecture(name="x", d_model=256, vocab_size=256, blocks=(attention, mamba) * 2),
        Architecture(name="y", d_model=256, vocab_size=256, blocks=(attention,) * 12),
    ]
    sizes = {"workloads": ["decode"], "context": 2048, "batch": 1, "seconds": 0.05, "block_seconds": 0.02}
    given = deployment(device="cpu", **sizes)
    spec = replace(SPEC, memory=64.0)
    monkeypatch.setattr(meter, "spec_of", lambda device, folder: spec)
    table = open_meter(replace(given, method="table"), tmp_path)
    whole = open_meter(given, tmp_path)
    found = [[m.measure(d).numbers["decode_latency_ms"].value for d in designs] for m in (table, whole)]
    assert found[0] == pytest.approx(found[1], rel=0.02)
    assert all(values[1] > 2 * values[0] for values in found), found


def test_measuring_leaves_the_device_to_others_and_holds_it_meanwhile(
    described, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    held: list[bool] = []

    @dataclass
    class Lock:
        inside: bool = False

        def exclusive(self) -> "Lock":
            return self

        def __enter__(self) -> None:
            self.inside = True

        def __exit__(self, *_: object) -> None:
            self.inside = False

    lock = Lock()
    monkeypatch.setattr(meter.DeviceLock, "of", lambda device: lock)

    def answer(*_: object) -> tuple[Measured, int]:
        held.append(lock.inside)
        return Measured(numbers={}), 5

    monkeypatch.setattr(meter, "resident_peak_bytes", answer)
    measured = open_meter(deployment(device="cpu"), tmp_path).measure(HYBRID)
    assert held == [True] and not lock.inside
    assert measured.numbers["peak_reserved_bytes"].value == 5


def test_what_training_takes_from_the_system_is_told_apart_from_what_inference_takes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    both = deployment(device="cpu", workloads=["serve", "train_step"])

    def answer(function: object, architecture: object, part: Deployment, *_: object) -> tuple[Measured, int]:
        assert not (part.trained and part.served), "one process for each, or the larger peak hides the smaller"
        times = {q: Measurement.exact(1.0, "ms") for q in part.quantities}
        return Measured(numbers=dict(times), costs={"own": times}), 7 if part.trained else 5

    monkeypatch.setattr(meter, "resident_peak_bytes", answer)
    measured = open_meter(both, tmp_path).measure(HYBRID)
    assert measured.numbers["peak_reserved_bytes"].value == 5
    assert measured.numbers["train_peak_reserved_bytes"].value == 7
    assert set(measured.costs["own"]) == set(both.quantities)


def test_this_machine_has_a_description_with_its_own_name(tmp_path: Path) -> None:
    spec = spec_of(CPU, tmp_path)
    assert spec.slug != "described" and spec.memory_bytes > 0
    assert spec.milliseconds(1e9, 0, "float32") > 0
    assert D == HYBRID.d_model
