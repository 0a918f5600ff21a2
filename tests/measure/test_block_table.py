"""The table on disk: nothing is lost, nothing foreign is read, and widths between two measured ones lie on a line."""

import json
import multiprocessing
from pathlib import Path

import pytest

from nas.architecture import Attention, Glu, HeadMix, Mamba2, Moe, NoFfn, NoMixer
from nas.compile import FFNS, MIXERS
from nas.devices import described_devices
from nas.measure.block_table import (
    SHIPPED,
    BlockTable,
    Entry,
    TableError,
    key_of,
    read_table,
    write_table,
)
from nas.measure.child import started
from nas.measure.table_parts import Ends, Joined, Joint, joined, part_from_dict, part_to_dict
from nas.parts import ffn_width
from nas.workload import Decode, Prefill, TrainStep
from tests.measure.examples import ATTENTION, DECODE, ENDS, GLU, MAMBA2, MOE, D, entry
from tests.test_count import ALL_FFNS, ALL_MIXERS

NAME = "toy device"


def stored(path: Path, *entries: Entry) -> Path:
    table = BlockTable.open(NAME, path)
    for one in entries:
        table.add(one)
    table.save()
    return path


def test_what_is_saved_is_read_back_as_it_was(tmp_path: Path) -> None:
    entries = [
        entry(ATTENTION, 1.5, best=1.25, each=1000, once=20),
        entry(HeadMix(parts=(ATTENTION, MAMBA2)), 0.5, phase=Prefill(batch=2, prompt=64)),
        entry(MOE, 0.25, phase=TrainStep(batch=2, tokens=8)),
        entry(ENDS, 0.125),
    ]
    path = stored(tmp_path / "new" / "folder" / "toy.json", *entries)
    again = BlockTable.open(NAME, path)
    assert {e.key: e.part.canonical(D) if not isinstance(e.part, Ends | Joined) else e.part for e in entries} == {
        key: e.part for key, e in again.entries.items()
    }
    for one in entries:
        found = again.find(one.part, D, one.phase, "float32")
        assert found is not None
        assert (found.own, found.best, found.best_by) == (one.own, one.best, one.best_by)
        assert (found.bytes_each, found.bytes_once, found.launches) == (one.bytes_each, one.bytes_once, one.launches)
        assert dict(found.operations) == dict(one.operations) and dict(found.environment) == dict(one.environment)
        assert found.share_of_roofline == pytest.approx(0.1)


def test_a_table_is_written_in_an_order_that_does_not_depend_on_when(tmp_path: Path) -> None:
    one, two = entry(ATTENTION, 1.0), entry(GLU, 2.0)
    first, second = stored(tmp_path / "a.json", one, two), stored(tmp_path / "b.json", two, one)
    assert first.read_text() == second.read_text()
    blocks = [line for line in first.read_text().splitlines() if line.startswith("  ")]
    assert len(blocks) == 2 and all(json.loads(line.rstrip(",")) for line in blocks), "one line for each block"
    assert {path.name for path in tmp_path.iterdir()} == {"a.json", "b.json", "a.lock", "b.lock"}


UNUSUAL = [Ends(vocab_size=8, tied=False, norm="layernorm"), joined(GLU, Joint(placement="shared", part_scaled=True))]


@pytest.mark.parametrize("part", [*ALL_MIXERS[1:], *ALL_FFNS, ENDS, *UNUSUAL], ids=lambda p: type(p).__name__)
def test_every_kind_of_block_can_be_stored(part) -> None:
    data = json.loads(json.dumps(part_to_dict(part, D)))
    assert part_to_dict(part_from_dict(data), D) == data
    assert key_of(part_from_dict(data), D, DECODE, "float32") == key_of(part, D, DECODE, "float32")


def test_every_kind_of_block_is_tried() -> None:
    assert {type(part) for part in ALL_MIXERS} == set(MIXERS)
    assert {type(part) for part in ALL_FFNS} == set(FFNS) - {NoFfn}
    assert isinstance(ALL_MIXERS[0], NoMixer)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (Attention(num_heads=2, head_dim=32), Attention(num_heads=2, num_kv_heads=2, head_dim=32)),
        (
            Attention(num_heads=2, head_dim=32, position="none"),
            Attention(num_heads=2, head_dim=32, position="none", rope_base=5.0),
        ),
        (HeadMix(parts=(ATTENTION, MAMBA2)), HeadMix(parts=(MAMBA2, ATTENTION))),
        (HeadMix(parts=(ATTENTION, ATTENTION), fuse="concat"), Attention(num_heads=4, head_dim=32)),
        (Moe(num_experts=1, top_k=1, d_ff=16), Glu(d_ff=16)),
    ],
)
def test_blocks_that_compute_the_same_have_one_key(one, other) -> None:
    assert key_of(one, D, DECODE, "float32") == key_of(other, D, DECODE, "float32")


def test_everything_that_the_cost_depends_on_is_in_the_key() -> None:
    keys = {
        key_of(ATTENTION, D, DECODE, "float32"),
        key_of(Attention(num_heads=2, head_dim=32, window=8), D, DECODE, "float32"),
        key_of(ATTENTION, 2 * D, DECODE, "float32"),
        key_of(ATTENTION, D, Decode(batch=2, context=64), "float32"),
        key_of(ATTENTION, D, Decode(batch=1, context=65), "float32"),
        key_of(ATTENTION, D, Prefill(batch=1, prompt=64), "float32"),
        key_of(ATTENTION, D, TrainStep(batch=1, tokens=64), "float32"),
        key_of(ATTENTION, D, DECODE, "bfloat16"),
        key_of(Ends(vocab_size=32, tied=True), D, DECODE, "float32"),
        key_of(Ends(vocab_size=32, tied=False), D, DECODE, "float32"),
        key_of(Ends(vocab_size=33, tied=True), D, DECODE, "float32"),
        key_of(Ends(vocab_size=32, tied=True, logits_capped=True), D, DECODE, "float32"),
        key_of(joined(ATTENTION, Joint(placement="sandwich")), D, DECODE, "float32"),
        key_of(joined(ATTENTION, Joint(placement="post", norm="layernorm")), D, DECODE, "float32"),
    }
    assert len(keys) == 14


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot be read .* move it away, and blocks are measured anew"),
        ("not json", "cannot be read"),
        ("[]", "cannot be read"),
        ("null", "cannot be read"),
        ("{}", r"cannot be read \(KeyError"),
        ('{"format": 1, "device": "toy device", "environments": [], "blocks": [{}]}', "cannot be read"),
        ('{"format": 1, "device": "toy device", "environments": [], "blocks": 3}', "cannot be read"),
        ('{"format": 99, "device": "toy device"}', "has format 99, but this version reads 1"),
        (
            '{"format": 1, "device": "NVIDIA H200", "environments": [], "blocks": []}',
            "was measured on NVIDIA H200, but toy device is wanted; take a table of that device",
        ),
    ],
)
def test_a_file_that_is_no_table_of_the_device_is_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "odd.json"
    path.write_text(text)
    with pytest.raises(TableError, match=says) as caught:
        BlockTable.open(NAME, path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


ODD_JOINT = {"kind": "glu", "d_ff": 8, "joint": {"placement": "nowhere"}}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("part", {"kind": "atention"}),
        ("part", ODD_JOINT),
        ("phase", {"kind": "decode"}),
        ("own", {"value": 1}),
        ("environment", 7),
    ],
)
def test_a_block_that_was_edited_wrongly_is_one_sentence(tmp_path: Path, field: str, value: object) -> None:
    path = stored(tmp_path / "toy.json", entry(ATTENTION, 1.0))
    data = json.loads(path.read_text())
    data["blocks"][0][field] = value
    path.write_text(json.dumps(data))
    with pytest.raises(TableError, match="cannot be read") as caught:
        BlockTable.open(NAME, path)
    assert "\n" not in str(caught.value)


def test_a_network_that_an_earlier_version_wrote_teaches_nothing(tmp_path: Path) -> None:
    path = stored(tmp_path / "toy.json", entry(ATTENTION, 1.0))
    data = json.loads(path.read_text())
    own = entry(ATTENTION, 1.0).own.to_dict()
    old = {"network": "a", "phase": {"kind": "decode", "batch": 1, "context": 64}, "dtype": "float32", "sum_ms": 1.0}
    data["wholes"] = [{**old, "own": own, "environment": 0}, {**old, "own": own, "environment": 0, "mixing": 0.5}]
    path.write_text(json.dumps(data))
    _, wholes = read_table(path, NAME)
    assert [whole.mixing for whole in wholes] == [0.5]


def test_a_folder_where_a_table_should_be_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(TableError, match="cannot be read"):
        BlockTable.open(NAME, tmp_path)


def test_a_users_own_entries_stand_over_the_shipped_ones(tmp_path: Path) -> None:
    shipped = stored(tmp_path / "shipped.json", entry(ATTENTION, 1.0), entry(MAMBA2, 2.0))
    own = stored(tmp_path / "own.json", entry(ATTENTION, 3.0))
    table = BlockTable.open(NAME, own, also=[shipped, tmp_path / "absent.json"])
    assert [table.entries[e.key].own.value for e in (entry(ATTENTION, 0.0), entry(MAMBA2, 0.0))] == [3.0, 2.0]


def test_saving_leaves_what_another_process_measured_meanwhile(tmp_path: Path) -> None:
    path = stored(tmp_path / "toy.json", entry(ATTENTION, 1.0))
    ours, theirs = BlockTable.open(NAME, path), BlockTable.open(NAME, path)
    theirs.add(entry(ATTENTION, 7.0))
    theirs.add(entry(MAMBA2, 2.0))
    theirs.save()
    ours.add(entry(GLU, 3.0))
    ours.save()
    found = BlockTable.open(NAME, path)
    values = [found.entries[entry(part, 0.0).key].own.value for part in (ATTENTION, MAMBA2, GLU)]
    assert values == [7.0, 2.0, 3.0], "what was only read is not written back over a newer measurement"


def test_a_table_without_news_is_not_written(tmp_path: Path) -> None:
    BlockTable.open(NAME, tmp_path / "toy.json").save()
    assert list(tmp_path.iterdir()) == []


def save_many(path: Path, start: int, ready, go) -> None:
    table = BlockTable.open(NAME, path)
    ready.set()
    go.wait(300)
    for width in range(start, start + 12):
        table.add(entry(Glu(d_ff=width), float(width)))
        table.save()


def test_two_processes_that_save_into_one_file_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("forkserver")
    path, go = tmp_path / "toy.json", context.Event()
    readies = [context.Event() for _ in range(2)]
    workers = [started(save_many, path, 100 * (i + 1), ready, go) for i, ready in enumerate(readies)]
    assert all(ready.wait(300) for ready in readies)
    go.set()
    for worker in workers:
        worker.join(300)  # a loaded machine takes minutes
        assert worker.exitcode == 0
    widths = sorted(ffn_width(e.part) for e in BlockTable.open(NAME, path).entries.values())  # type: ignore[arg-type]
    assert widths == [*range(100, 112), *range(200, 212)]


def test_between_two_measured_widths_the_cost_is_a_straight_line_and_exact_at_both() -> None:
    table = BlockTable(NAME, Path("unused.json"))
    low, high = entry(Glu(d_ff=64), 1.0, best=0.5, each=100, once=10), entry(Glu(d_ff=96), 3.0, best=1.5, each=300)
    table.add(low)
    table.add(high)
    for width, own in [(64, 1.0), (72, 1.5), (80, 2.0), (88, 2.5), (96, 3.0)]:
        found = table.find(Glu(d_ff=width), D, DECODE, "float32")
        assert found is not None
        assert (found.own.value, found.best.value) == pytest.approx((own, own / 2))
        assert found.bytes_each == 100 * own
        assert found.roofline_ms == pytest.approx(own / 10)
        assert found.own.low <= found.own.value <= found.own.high
        assert ffn_width(found.part) == width  # type: ignore[arg-type]
    assert table.find(Glu(d_ff=104), D, DECODE, "float32") is None
    assert table.find(Glu(d_ff=80, activation="gelu"), D, DECODE, "float32") is None
    assert table.find(Glu(d_ff=80), 2 * D, DECODE, "float32") is None


def test_an_exact_width_is_preferred_to_the_line() -> None:
    table = BlockTable(NAME, Path("unused.json"))
    for width, own in [(64, 1.0), (96, 3.0), (80, 9.0)]:
        table.add(entry(Glu(d_ff=width), own))
    found = table.find(Glu(d_ff=80), D, DECODE, "float32")
    assert found is not None and found.own.value == 9.0


def test_widths_below_the_grid_cost_what_its_first_point_does() -> None:
    table = BlockTable(NAME, Path("unused.json"))
    table.add(entry(Glu(d_ff=8), 1.0))
    found = table.find(Glu(d_ff=3), D, DECODE, "float32")
    assert found is not None and found.own.value == 1.0


def test_mixers_are_never_interpolated() -> None:
    table = BlockTable(NAME, Path("unused.json"))
    table.add(entry(Mamba2(num_heads=2, head_dim=32, state_dim=16), 1.0))
    table.add(entry(Mamba2(num_heads=6, head_dim=32, state_dim=16), 3.0))
    assert table.find(Mamba2(num_heads=4, head_dim=32, state_dim=16), D, DECODE, "float32") is None


def test_conditions_are_noted_beside_what_was_noted_before() -> None:
    flagged = entry(ATTENTION, 1.0).flagged(("busy: others",))
    assert flagged.own.notes == flagged.best.notes == ("steady", "busy: others")


def test_a_file_is_whole_or_not_there_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = stored(tmp_path / "toy.json", entry(ATTENTION, 1.0))
    before = path.read_text()

    def fail(self: Path, target: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_table(path, NAME, [entry(GLU, 2.0)], [])
    assert path.read_text() == before


def faults(folder: Path) -> list[str]:
    """What is wrong with the tables of a folder that ships, a line each."""
    found = []
    for path in sorted(folder.glob("*.json")):
        spec = described_devices().get(path.stem)
        if spec is None:
            found.append(f"{path.stem}: no described device")
            continue
        try:
            entries, wholes = read_table(path, spec.name)
        except TableError as error:
            found.append(f"{path.stem}: {error}")
            continue
        if not entries:
            found.append(f"{path.stem}: empty")
        if not all(entry.operations and entry.own.value > 0 and entry.roofline_ms > 0 for entry in entries):
            found.append(f"{path.stem}: no operations or no time")
        if len({entry.key for entry in entries}) < len(entries):
            found.append(f"{path.stem}: a block twice")
        if not all(0.5 < whole.ratio < 2 for whole in wholes):
            found.append(f"{path.stem}: blocks and whole networks differ by more than a factor of two")
    return found


def test_shipped_tables_belong_to_described_devices_and_know_their_operations(tmp_path: Path) -> None:
    assert faults(SHIPPED) == []
    name = described_devices()["h200"].name
    good = entry(ATTENTION, 1.0)
    write_table(tmp_path / "h200.json", name, [good], [])
    assert faults(tmp_path) == []
    write_table(tmp_path / "h200.json", name, [entry(GLU, 0.0)], [])
    assert faults(tmp_path) == ["h200: no operations or no time"]
    write_table(tmp_path / "h200.json", name, [good, good], [])
    assert faults(tmp_path) == ["h200: a block twice"]
    write_table(tmp_path / "h200.json", name, [], [])
    assert faults(tmp_path) == ["h200: empty"]
    write_table(tmp_path / "h200.json", NAME, [good], [])
    (tmp_path / "nosuch.json").write_text("{}")
    foreign, unknown = faults(tmp_path)
    assert foreign.startswith("h200: ") and NAME in foreign and unknown == "nosuch: no described device"
