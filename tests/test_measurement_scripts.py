"""The commands about measuring, run on tiny deployments: what they print, what they write, and that they go on."""

import json
from pathlib import Path

import pytest

from nas.devices import read_spec
from nas.workload import Prefill, TrainStep
from scripts import benchmark_measurement, describe_device, measure_architecture, measure_table, show_resize
from scripts.measurement_page import ordered_right, row_of
from scripts.settings import SearchSettings
from tests.commands import call

TINY = [
    *("search_space.num_layers=4", "search_space.d_model=64", "search_space.params=150000"),
    *("search_space.mixers=[attention,mamba2]", "search_space.ffns=glu", "search_space.num_kv_heads=full"),
    *("measure.parameters=1000000", "measure.prompt=16", "measure.new_tokens=32", "measure.device=cpu"),
    *(
        "measure.seconds=0.05",
        "measure.block_seconds=0.02",
        "measure.vocab_size=64",
        "measure.threads=1",
        "measure.batch=2",
        "measure.tokens=16",
    ),
]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYBRID_NAS_CACHE", str(tmp_path / "cache"))


def test_the_mapping_shows_every_option_of_proxy_and_deployment(monkeypatch, capsys):
    assert call(show_resize, monkeypatch, "mamba2-attention-7-1") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("MMMAMMMM -> MMMAMMMMMMMAMMMM")
    cells = {line[:34].strip(): line[34:].split() for line in lines[2:] if len(line) > 40}
    assert cells["layers"] == ["8", "16"]
    assert cells["head_dim (head_dim)"] == ["32", "64"]
    assert cells["state_dim (state)"][1] == str(2 * int(cells["state_dim (state)"][0]))
    small, large = (int(cell.replace(",", "")) for cell in cells["parameters"])
    assert small == pytest.approx(320_000, rel=0.03) and large == pytest.approx(28_000_000, rel=0.03)
    assert sum(line.startswith("block ") for line in lines) == 8


def test_an_unknown_design_is_one_sentence_with_the_nearest_name(monkeypatch, capsys):
    assert call(show_resize, monkeypatch, "mamba2-attenton-7-1") == 2
    assert "Did you mean 'mamba2-attention-7-1'?" in capsys.readouterr().err


def test_a_table_is_filled_once_and_goes_on_where_it_stopped(tmp_path, monkeypatch, capsys):
    arguments = ("--samples", "2", "--out", str(tmp_path), *TINY)
    assert call(measure_table, monkeypatch, *arguments, "--limit", "0") == 3
    assert "0 blocks measured" in capsys.readouterr().out
    assert call(measure_table, monkeypatch, *arguments) == 0
    first = capsys.readouterr().out
    (table,) = tmp_path.glob("*.json")
    blocks = json.loads(table.read_text())["blocks"]
    assert len(blocks) >= 6
    assert f"{len(blocks)} blocks and phases, {len(blocks)} of them to be measured" in first
    assert "portable" in first and "%" in first
    assert call(measure_table, monkeypatch, *arguments) == 0
    assert "0 of them to be measured" in capsys.readouterr().out
    assert json.loads(table.read_text())["blocks"] == blocks


def test_what_denoises_wants_blocks_that_read_everything_again():
    overrides = [*TINY, "search_space.loss=masked_diffusion", "measure.workloads=[serve,train_step]"]
    wanted = measure_table.wanted_blocks(SearchSettings.from_overrides(overrides), samples=1)
    assert {type(phase) for _, _, phase in wanted} == {Prefill, TrainStep}


def test_a_table_of_a_device_that_is_not_at_hand_is_refused(monkeypatch, capsys):
    assert call(measure_table, monkeypatch, "measure.device=h200") == 2
    assert "A table is measured on a device at hand, but h200 is described." in capsys.readouterr().err


def test_one_architecture_is_reported_under_every_cost_model_and_by_block(monkeypatch, capsys):
    assert call(measure_architecture, monkeypatch, "all-attention", *TINY, "measure.workloads=[serve,train_step]") == 0
    text = capsys.readouterr().out
    heads = next(line for line in text.splitlines() if line.startswith("ms "))
    assert heads.split() == ["ms", "own", "best", "roofline"]
    for quantity in ("time_to_first_token", "time_per_output_token", "train_step"):
        cells = next(line for line in text.splitlines() if line.startswith(quantity)).split()
        assert all(float(cell) > 0 for cell in cells[1:]), cells
    assert "saved_for_backward_bytes" in text and "peak_reserved_bytes" in text
    rows = [line for line in text.splitlines() if line.startswith(("attention ", "glu ", "embedding "))]
    assert len(rows) == 3 * 3  # three phases of three parts
    assert all(row.split()[-1] == "portable" for row in rows)


def test_a_device_that_is_not_at_hand_gets_its_roofline_alone(monkeypatch, capsys):
    assert (
        call(measure_architecture, monkeypatch, "all-attention", "measure.device=h100", "measure.cost_model=roofline")
        == 0
    )
    text = capsys.readouterr().out
    assert "estimate" in text and "own" not in next(line for line in text.splitlines() if line.startswith("ms "))


def test_the_benchmark_of_measuring_writes_its_numbers_and_goes_on(tmp_path, monkeypatch, capsys):
    arguments = ("--architectures", "3", "--repeats", "2", "--out", str(tmp_path), *TINY)
    assert call(benchmark_measurement, monkeypatch, *arguments, "--limit", "0") == 3
    assert call(benchmark_measurement, monkeypatch, *arguments) == 0
    record = json.loads((tmp_path / "measurement.json").read_text())
    assert record["deployed_per_second"] > 0
    assert len(record["architectures"]) == 3 and len(record["repeats"]) == 2
    for row in record["architectures"].values():
        assert row["measured"].keys() == row["predicted"].keys() == row["roofline"].keys()
        assert all(value > 0 for value in row["measured"].values())
        assert row["again"].keys() == row["measured"].keys()
    text = (tmp_path / "measurement.md").read_text()
    assert "| time_per_output_token_ms |" in text and "architectures a second" in text
    capsys.readouterr()
    assert call(benchmark_measurement, monkeypatch, *arguments) == 0
    again = json.loads((tmp_path / "measurement.json").read_text())
    kept = benchmark_measurement.without_flagged(record)
    assert again["environment"] == record["environment"]
    assert again["repeats"][: len(kept["repeats"])] == kept["repeats"], "what is there is not measured again"
    for identity, row in kept["architectures"].items():
        assert again["architectures"][identity] | row == again["architectures"][identity]


@pytest.mark.parametrize(
    ("command", "arguments", "sentence"),
    [
        (benchmark_measurement, ("--architectures", "0"), "--architectures must be a whole number of at least 1"),
        (benchmark_measurement, ("--repeats", "-1"), "--repeats must be a whole number of at least 1, but got -1."),
        (benchmark_measurement, ("--limit", "-1"), "--limit must be a number of seconds from zero, but got -1.0."),
        (measure_table, ("--samples", "-5"), "--samples must be a whole number of at least 1, but got -5."),
        (measure_table, ("--limit", "nan"), "--limit must be a number of seconds from zero, but got nan."),
    ],
)
def test_counts_and_limits_that_mean_nothing_are_refused(command, arguments, sentence, monkeypatch, capsys):
    assert call(command, monkeypatch, *arguments) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("text", ["{", "[1]"])
def test_a_torn_record_of_the_benchmark_of_measuring_is_one_sentence(text, tmp_path, monkeypatch, capsys):
    (tmp_path / "measurement.json").write_text(text)
    assert call(benchmark_measurement, monkeypatch, "--out", str(tmp_path), *TINY) == 2
    error = capsys.readouterr().err
    assert "measurement.json is no record of this command" in error and error.count("\n") == 1
    assert (tmp_path / "measurement.json").read_text() == text, "it is left to whoever can mend it"


def test_what_a_busy_device_had_flagged_is_measured_anew():
    rows = {
        "quiet": {"flags": [], "again": {"ms": 1.0}, "flags_again": []},
        "busy": {"flags": ["busy: other processes took 30 % of the CPU"]},
        "busy later": {"flags": [], "again": {"ms": 3.0}, "flags_again": ["swapping: 2 MB"]},
    }
    repeats = [{"times": {"ms": 1.0}, "flags": []}, {"times": {"ms": 9.0}, "flags": ["throttled: by heat"]}]
    kept = benchmark_measurement.without_flagged({"architectures": rows, "repeats": repeats})
    assert kept["architectures"] == {"quiet": rows["quiet"], "busy later": {"flags": []}}
    assert kept["repeats"] == repeats[:1]


def test_close_pairs_are_counted_by_hand():
    rows = [{"measured": {"ms": m}, "guess": g} for m, g in ((10.0, 1.0), (10.5, 2.0), (10.9, 0.0), (20.0, 9.0))]
    share, pairs = ordered_right(rows, "ms", lambda row: row["guess"])
    assert pairs == 3  # 20 ms is no neighbour of any
    assert share == pytest.approx(1 / 3)  # of (1, 2), (1, 0) and (2, 0) only the first rises with the time
    share, _ = ordered_right(rows, "ms", lambda row: 0.0)
    assert share == 0.5


def test_what_measuring_again_misses_stands_beside_what_the_table_misses():
    measured, predicted, again = (10.0, 10.5), (9.0, 8.4), (10.1, 9.45)
    rows = [
        {
            "measured": {"ms": measured[i]},
            "predicted": {"ms": predicted[i]},
            "again": {"ms": again[i]},
            "roofline": {"ms": 1.0},
            "spread": {"ms": 0.02},
            "active_parameters": i,
        }
        for i in range(2)
    ]
    cells = row_of(rows, "ms").strip("| ").split(" | ")
    assert cells == ["ms", "15.0%", "20.0%", "-15.0%", "5.5%", "10.0%", "2.0%", "1", "0%", "0%", "50%", "100%"]
    for row in rows:
        del row["again"]
    assert row_of(rows, "ms").count("not done") == 2


def test_a_device_is_described_by_what_was_measured(tmp_path, monkeypatch):
    path = tmp_path / "cpu.yaml"
    assert call(describe_device, monkeypatch, "--device", "cpu", "--seconds", "0.05", "--out", str(path)) == 0
    spec = read_spec(path)
    assert spec.tflops["float32"] > 0 and spec.bandwidth > 0 and spec.memory > 0
    assert "measured with torch" in spec.source
