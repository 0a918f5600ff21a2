"""A network is the sum of its blocks and its ends; what a table lacks is measured once, or asked for in a sentence."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nas.architecture import Attention, Block, Glu, Mamba2
from nas.measure import prediction, rivals
from nas.measure.block_table import BlockTable, Entry
from nas.measure.blocks import Bench
from nas.measure.conditions import DeviceBusy
from nas.measure.prediction import NotInTable, TableReader, added, predict
from nas.parts import ffn_width
from nas.workload import Decode, Phase, Prefill
from tests.counted_calls import calls_of
from tests.measure.examples import (
    ATTENTION,
    DECODE,
    ENDS,
    GLU,
    MAMBA2,
    MOE,
    SPEC,
    D,
    bench,
    entry,
    ms,
    network,
)

HYBRID = network(Block(mixer=ATTENTION, ffn=GLU), Block(mixer=MAMBA2), Block(mixer=ATTENTION, ffn=MOE))


@pytest.fixture(autouse=True)
def one_thread():
    """Entries of the examples are of as many threads as torch has when they are made."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def table_of(*entries: Entry, path: Path = Path("unused.json")) -> BlockTable:
    table = BlockTable(SPEC.name, path)
    for one in entries:
        table.add(one)
    return table


def reader_of(*entries: Entry, at: Bench | None = None) -> TableReader:
    return TableReader(table_of(*entries), SPEC, "float32", at)


COMPLETE = (
    entry(ENDS, 1.0, best=0.5, each=0, once=70),
    entry(ATTENTION, 10.0, best=8.0, each=5, once=100),
    entry(MAMBA2, 100.0, each=1, once=900),
    entry(GLU, 1000.0, best=900.0, once=30),
    entry(MOE, 10_000.0, each=7),
)


def test_a_network_takes_what_its_blocks_and_its_ends_take() -> None:
    predicted = predict(HYBRID, DECODE, reader_of(*COMPLETE))
    assert predicted.own.value == 1.0 + 10.0 + 1000.0 + 100.0 + 10.0 + 10_000.0
    assert predicted.best.value == 0.5 + 8.0 + 900.0 + 100.0 + 8.0 + 10_000.0
    assert predicted.work_bytes == 5 + 5 + 1 + 7 + 900, "what each block adds, and the largest work space once"
    for time_ in (predicted.own, predicted.best):
        assert (time_.source, time_.unit, time_.notes) == ("table", "ms", ("predicted from 5 measured blocks",))


def test_spreads_of_different_blocks_add_up_in_squares() -> None:
    total = added([(ms(10.0, 3.0), 1), (replace(ms(10.0, 2.0), n=5), 2)])
    assert (total.value, total.low, total.high, total.n) == (30.0, 25.0, 35.0, 5)


def test_a_prediction_says_how_many_of_its_blocks_were_measured_beside_others() -> None:
    entries = [COMPLETE[0], COMPLETE[1].flagged(("busy: others took 20 % of the CPU",)), *COMPLETE[2:]]
    own = predict(HYBRID, DECODE, reader_of(*entries)).own
    assert own.notes == ("predicted from 5 measured blocks", "busy: 1 of these blocks were measured so")


class FakeBench:
    """Stands in for measuring: every block takes a millisecond, or what its width says, and is counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.measured: list[object] = []
        monkeypatch.setattr(prediction, "measure_block", self.measure)

    def measure(self, part, d_model: int, phase: Phase, at: Bench) -> Entry:
        self.measured.append(part)
        return entry(part, float(ffn_width(part)) if isinstance(part, Glu) else 1.0, phase=phase)


def test_what_the_table_lacks_is_measured_and_saved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = FakeBench(monkeypatch)
    table = table_of(*COMPLETE[:2], path=tmp_path / "toy.json")
    reader = TableReader(table, SPEC, "float32", bench())
    reader.complete(HYBRID, {DECODE})
    assert fake.measured == [GLU, MAMBA2, MOE]
    assert predict(HYBRID, DECODE, reader).own.value == 1.0 + 10.0 + ffn_width(GLU) + 1.0 + 10.0 + 1.0
    again = BlockTable.open(SPEC.name, tmp_path / "toy.json")
    assert len(again.entries) == 5


def test_another_network_of_the_same_blocks_measures_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = FakeBench(monkeypatch)
    reader = TableReader(table_of(path=tmp_path / "toy.json"), SPEC, "float32", bench())
    reader.complete(HYBRID, {DECODE})
    seen = len(fake.measured)
    other = network(*[Block(mixer=MAMBA2, ffn=MOE), Block(mixer=ATTENTION, ffn=GLU)] * 4)
    reader.complete(other, {DECODE})
    same = Attention(num_heads=2, num_kv_heads=2, head_dim=32)  # the same function, written otherwise
    reader.complete(network(Block(mixer=same, ffn=GLU)), {DECODE})
    assert len(fake.measured) == seen
    reader.complete(other, {DECODE, Prefill(batch=1, prompt=64)})
    assert len(fake.measured) == 2 * seen


def test_of_an_ffn_the_two_widths_of_the_grid_around_it_are_measured(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake = FakeBench(monkeypatch)
    reader = TableReader(table_of(path=tmp_path / "toy.json"), SPEC, "float32", bench())
    reader.complete(network(Block(ffn=Glu(d_ff=72)), Block(ffn=Glu(d_ff=88))), {DECODE})
    assert [p for p in fake.measured if isinstance(p, Glu)] == [Glu(d_ff=64), Glu(d_ff=96)]
    found = reader.look_up(Glu(d_ff=88), D, DECODE)
    assert found is not None and found.own.value == 88.0
    reader.complete(network(Block(ffn=Glu(d_ff=104))), {DECODE})
    assert [p for p in fake.measured if isinstance(p, Glu)][2:] == [Glu(d_ff=128)]


def test_a_table_that_lacks_blocks_says_which_where_none_can_be_measured() -> None:
    reader = reader_of(*COMPLETE[:2])
    with pytest.raises(NotInTable) as caught:
        reader.complete(HYBRID, {DECODE})
    message = str(caught.value)
    assert "the table of toy device lacks 3 blocks" in message
    assert "the first glu d_ff=64 at width 64" in message
    reader_of(*COMPLETE).complete(HYBRID, {DECODE})
    with pytest.raises(NotInTable, match="lacks 5 blocks"):
        reader_of(*COMPLETE).complete(HYBRID, {Decode(batch=1, context=65)})


def test_an_entry_counts_while_its_operations_are_those_at_hand() -> None:
    old = replace(COMPLETE[1], operations={**COMPLETE[1].operations, "attention": "0123456789ab"})
    assert reader_of(COMPLETE[1]).look_up(ATTENTION, D, DECODE) is not None
    assert reader_of(old).look_up(ATTENTION, D, DECODE) is None
    fewer = {name: value for name, value in COMPLETE[1].operations.items() if name != "attention"}
    assert reader_of(replace(old, operations=fewer)).look_up(ATTENTION, D, DECODE) is None


@pytest.mark.parametrize("stale", [0, 1])
def test_between_two_widths_nothing_is_known_when_either_is_stale(stale: int) -> None:
    widths = [entry(Glu(d_ff=64), 1.0), entry(Glu(d_ff=96), 3.0)]
    assert reader_of(*widths).look_up(Glu(d_ff=80), D, DECODE) is not None
    widths[stale] = replace(widths[stale], operations={"nas.ffns.glu": "0123456789ab"})
    assert reader_of(*widths).look_up(Glu(d_ff=80), D, DECODE) is None


@pytest.mark.parametrize(
    ("field", "value", "counts"),
    [("torch", "1.0", False), ("triton", "1.0", False), ("threads", 64, False), ("python", "2.7", True)],
)
def test_on_the_device_itself_versions_must_agree_and_elsewhere_they_may_not(
    field: str, value: str | int, counts: bool
) -> None:
    old = replace(COMPLETE[1], environment={**COMPLETE[1].environment, field: value})
    assert (reader_of(old, at=bench()).look_up(ATTENTION, D, DECODE) is not None) is counts
    assert reader_of(old).look_up(ATTENTION, D, DECODE) is not None


@pytest.mark.parametrize(
    ("best_by", "counts"),
    [("own", True), ("sdpa", True), ("fla chunk_gla", False), ("sdpa + fla chunk_gla", False)],
)
def test_an_entry_ends_with_the_version_of_the_library_that_was_the_fastest(
    best_by: str, counts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rivals, "version_of_library", {"fla": "flash-linear-attention 1.0"}.__getitem__)
    environment = {**COMPLETE[1].environment, **rivals.library_versions(best_by)}
    taken = replace(COMPLETE[1], best_by=best_by, environment=environment)
    assert reader_of(taken, at=bench()).look_up(ATTENTION, D, DECODE) is not None
    monkeypatch.setattr(rivals, "version_of_library", {"fla": "flash-linear-attention 1.1"}.__getitem__)
    assert (reader_of(taken, at=bench()).look_up(ATTENTION, D, DECODE) is not None) is counts
    assert reader_of(taken).look_up(ATTENTION, D, DECODE) is not None, "where the device is not, any versions count"


def test_a_stale_block_is_measured_anew(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake = FakeBench(monkeypatch)
    old = replace(COMPLETE[1], operations={"attention": "0123456789ab"})
    reader = TableReader(
        table_of(COMPLETE[0], old, *COMPLETE[2:], path=tmp_path / "toy.json"), SPEC, "float32", bench()
    )
    reader.complete(HYBRID, {DECODE})
    assert fake.measured == [ATTENTION]


def test_conditions_of_measuring_are_noted_on_the_entry(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeBench(monkeypatch)

    class Flags:
        flags = ("busy: others",)

        def __enter__(self) -> "Flags":
            return self

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr(prediction, "watch", lambda device: Flags())
    measured = reader_of(at=bench()).measure(ATTENTION, D, DECODE)
    assert "busy: others" in measured.own.notes and "busy: others" in measured.best.notes


def test_no_block_is_measured_on_a_busy_device_that_is_to_be_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def busy(device: torch.device) -> None:
        raise DeviceBusy("others use it")

    fake = FakeBench(monkeypatch)
    monkeypatch.setattr(prediction, "check_idle", busy)
    with pytest.raises(DeviceBusy):
        reader_of(at=replace(bench(), busy="refuse")).measure(ATTENTION, D, DECODE)
    assert fake.measured == []
    reader_of(at=bench()).measure(ATTENTION, D, DECODE)
    assert fake.measured == [ATTENTION]


def test_a_network_is_predicted_from_a_filled_table_in_some_hundred_calls() -> None:
    """Of 16 blocks: a tenth of a millisecond."""
    mixers = [ATTENTION, MAMBA2, *(Mamba2(num_heads=n, head_dim=16, state_dim=16) for n in range(1, 7))]
    ffns = [Glu(d_ff=width) for width in range(40, 64, 8)]
    reader = reader_of(*(entry(part, 1.0) for part in (ENDS, *mixers, Glu(d_ff=32), Glu(d_ff=48), Glu(d_ff=64))))
    networks = [
        network(*(Block(mixer=mixers[(i * j + j) % 8], ffn=ffns[(i + j) % 3]) for j in range(16))) for i in range(500)
    ]
    for one in networks[:8]:
        reader.complete(one, {DECODE})

    def predict_all() -> None:
        for one in networks:
            reader.complete(one, {DECODE})
            predict(one, DECODE, reader)

    assert calls_of(predict_all) < 1000 * len(networks)
