"""scripts/benchmark_search.py: real searches on a made-up table, and what is said of them."""

import json
from dataclasses import replace

import numpy as np
import pytest

from nas.architecture import canonical_id
from nas.count import Counts
from nas.measurement import Measurement
from nas.study.truth.oracle import Entry, Oracle
from scripts import benchmark_search
from scripts.command_line import composing
from scripts.search_page import between, page
from scripts.search_verdict import Found, Recorder, against_random, aims, curve, first_at, interval
from scripts.settings import SearchSettings
from search_spaces.every_point import every_point
from tests.commands import call
from tests.study.oracles import scored
from tests.test_command_line import run

SPACE = ("search_space.num_layers=[3]", "search_space.period=[3]", "search_space.alphabet=asm", "budget.trials=8")
SHARES = (0.0625, 0.25, 1.0)


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """27 architectures: loss falls, and costs rise, with every attention layer; a window does half of both."""
    overrides = ["search_space=oracle", "budget=oracle", "measure=table", *SPACE]
    with composing(overrides):
        settings = SearchSettings.from_overrides(overrides)
    entries = {}
    for params, architecture in every_point(settings.space):
        worth = sum({"attention": 2, "sliding_window": 1}.get(mixer.kind, 0) for mixer in architecture.mixers)
        identity = canonical_id(architecture)
        entries[identity] = Entry(
            id=identity,
            name=architecture.name,
            params=params,
            counts=Counts(
                parameters=1000, active_parameters=1000, weight_bytes=4000, sequence_bytes=100 + worth, flops_decode=10
            ),
            measurements={"time_per_output_token_ms": Measurement.exact(1.0 + worth, "ms")},
            scores={seed: [scores(worth, share, seed) for share in SHARES] for seed in (0, 1)},
        )
    path = tmp_path_factory.mktemp("table") / "oracle.json"
    provenance = {"settings": {}, "training": [], "costs": None}
    path.write_text(Oracle(shares=SHARES, provenance=provenance, entries=entries).to_text())
    return path


def scores(worth, share, seed):
    return {
        "text_loss": scored(4.0 - share - 0.1 * worth + 0.01 * seed, "bits/byte"),
        "recall": scored(share * (1 + worth) / 7, "share"),
        "recall_bits": scored(4.0 - share * worth / 2, "bits/answer"),
    }


def test_every_variant_is_held_against_random_search_with_intervals(table, tmp_path, monkeypatch, capsys):
    variants = ("--variants", "evolution", "tpe+rungs", "--problems", "quality", "--seeds", "3")
    arguments = (*SPACE, *variants, "--table", str(table), "--out", str(tmp_path))
    assert call(benchmark_search, monkeypatch, *arguments) == 0
    record = json.loads((tmp_path / "search.json").read_text())
    judged = record["problems"]["quality"]
    assert list(judged["variants"]) == ["evolution", "random", "tpe+rungs"]
    assert judged["architectures"] == 27 and judged["units"] == 8
    for one in judged["variants"].values():
        assert len(one["volume"]) == 8 and all(np.diff(one["volume"]) >= 0)
        assert one["gain"]["low"] <= one["gain"]["value"] <= one["gain"]["high"]
        assert 0 < one["trained"] <= 8
    assert judged["variants"]["random"]["gain"]["value"] == 0.0
    assert judged["variants"]["random"]["better_than_random"] == 0.5
    text = (tmp_path / "search.md").read_text()
    assert text == page(record) and text in capsys.readouterr().out
    (left_out,) = [line for line in text.splitlines() if line.startswith("Not replayed with objectives=quality: ")]
    assert "nsga3+rungs" in left_out and "tpe+rungs" not in left_out
    assert "Aim, random search's final hypervolume with a third of its training (3 of 8)" in text
    assert (tmp_path / "search.png").stat().st_size > 0


def test_searches_that_are_known_are_not_repeated_and_a_later_command_adds_to_them(table, tmp_path, monkeypatch):
    def replays(*arguments):
        common = (*SPACE, "--problems", "quality", "--seeds", "2", "--table", str(table), "--out", str(tmp_path))
        assert call(benchmark_search, monkeypatch, *common, *arguments) == 0
        lines = [json.loads(line) for line in (tmp_path / "searches.jsonl").read_text().splitlines()]
        return [(line["variant"], line["seed"]) for line in lines], json.loads((tmp_path / "search.json").read_text())

    first, record = replays("--variants", "qmc")
    assert sorted(first) == [("qmc", 0), ("qmc", 1), ("random", 0), ("random", 1)]
    (tmp_path / "searches.jsonl").write_text(
        "".join((tmp_path / "searches.jsonl").read_text().splitlines(keepends=True)[:3])
    )  # as after an interruption
    then, joint = replays("--variants", "nsga2")
    assert first[:3] == [("qmc", 0), ("qmc", 1), ("random", 0)]
    assert then == [*first[:3], ("nsga2", 0), ("nsga2", 1), ("random", 1)]
    assert set(joint["problems"]["quality"]["variants"]) == {"nsga2", "qmc", "random"}
    again, _ = replays("--variants", "nsga2", "--again")
    assert len(again) == len(then) + 4
    curves = [r["problems"]["quality"]["variants"]["random"]["volume"] for r in (record, joint)]
    assert curves[0] == curves[1]


def test_a_line_of_searches_that_cannot_be_read_is_named(table, tmp_path):
    (tmp_path / "searches.jsonl").write_text('{"problem": "quality"}\n')
    arguments = ("--variants", "qmc", "--seeds", "2", "--table", str(table), "--out", str(tmp_path))
    done = run(*SPACE, *arguments, script="scripts/benchmark_search.py")
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "Line 1 of" in done.stderr and "delete the line to replay that search again" in done.stderr


def test_a_table_of_some_architectures_on_more_seeds_tells_the_noise(table, tmp_path, monkeypatch):
    oracle = Oracle.read(table)
    several = dict(list(oracle.entries.items())[:5])
    once = {identity: replace(entry, scores={0: entry.scores[0]}) for identity, entry in oracle.entries.items()}
    alone, beside = tmp_path / "oracle.json", tmp_path / "oracle_seeds.json"
    alone.write_text(replace(oracle, entries=once).to_text())
    arguments = (*SPACE, "--variants", "qmc", "--problems", "quality", "--seeds", "2", "--table", str(alone))

    def judged(out):
        assert call(benchmark_search, monkeypatch, *arguments, "--out", str(out)) == 0
        return (out / "search.md").read_text(), json.loads((out / "search.json").read_text())["problems"]["quality"]

    text, first = judged(tmp_path / "first")
    assert "Standard deviation over seeds, as a share of the range: not known (one seed)." in text
    assert not any(first["noise"].values())
    beside.write_text(replace(oracle, entries=several).to_text())
    text, second = judged(tmp_path / "second")
    assert second["noise"]["text_loss"] == pytest.approx(0.01 / 2**0.5 / 0.6)
    assert "(5 architectures, 2 seeds of each)." in text
    ends = "front_at_end_within_noise"
    assert all(second["variants"][name][ends]["value"] >= one[ends]["value"] for name, one in first["variants"].items())
    other = replace(oracle, entries=several, provenance=oracle.provenance | {"settings": {"seed": 1}})
    beside.write_text(other.to_text())
    assert call(benchmark_search, monkeypatch, *arguments, "--out", str(tmp_path)) == 2


def test_one_search_of_each_is_refused_in_one_sentence(table):
    done = run("--seeds", "1", "--table", str(table), script="scripts/benchmark_search.py")
    assert done.returncode != 0 and "Traceback" not in done.stderr
    assert "--seeds must be at least 2, because one search tells no spread" in done.stderr


@pytest.mark.parametrize("text", [None, "{", "[1]", '{"format": 99}'])
def test_a_table_that_is_none_is_one_sentence(text, tmp_path, monkeypatch, capsys):
    path = tmp_path / "oracle.json"
    if text is not None:
        path.write_text(text)
    assert call(benchmark_search, monkeypatch, "--variants", "random", "--table", str(path)) == 2
    error = capsys.readouterr().err
    assert str(path) in error and error.count("\n") == 1


class Row:
    def __init__(self, state, trained, identity=""):
        self.state, self.trained, self.id = state, trained, identity


def test_training_on_rungs_counts_also_of_what_is_left_there():
    recorder = Recorder()
    rows = [("complete", 1.0), ("stopped", 0.25), ("duplicate", 0.0), ("stopped", 0.25), ("complete", 0.5)]
    for number, (state, trained) in enumerate(rows):
        recorder.row_finished(Row(state, trained, str(number)), (), 0, 0)  # type: ignore[arg-type]
    found = recorder.found("quality", "tpe+rungs", 0, 1.0)
    assert found.found == ("0", "4") and found.spent == (1.0, 2.0)
    assert found.wasted == {"duplicate": 1}


class Growing:
    """A truth by which each architecture adds a tenth."""

    def volumes(self, found):
        return np.arange(1, len(found) + 1) / 10


def test_a_curve_rises_when_the_training_was_paid_for():
    one = Found("quality", "x", 0, ("a", "b", "c"), (1.0, 2.5, 2.75), {}, 1.0)
    assert curve(Growing(), one, 4).tolist() == [0.1, 0.1, 0.3, 0.3]  # type: ignore[arg-type]


def test_a_variant_that_is_always_better_is_so_with_certainty_and_its_interval_does_not_reach_zero():
    chances = np.linspace(0.1, 0.5, 5)[None, :] + 0.01 * np.arange(6)[:, None]
    verdict = against_random(chances + 0.2, chances, np.linspace(0.0, 1.0, 101))
    assert verdict["better_than_random"] == 1.0
    assert verdict["gain"]["value"] == pytest.approx(0.2) and verdict["gain"]["low"] > 0.15
    assert verdict["units_to_random_final"]["value"] == 3.0  # 0.1 + 0.2 + 0.2 = 0.5
    assert verdict["random_needs"]["value"] == 74.0  # 0.725 of a curve that rises by a hundredth a unit
    same = against_random(chances, chances, np.linspace(0.0, 1.0, 101))
    assert same["gain"]["low"] < 0 < same["gain"]["high"]


def test_what_is_never_reached_has_no_number():
    assert first_at(np.array([0.1, 0.2]), 0.5) == np.inf
    never = interval(np.inf, [3.0, np.inf, np.inf])
    assert never["value"] is None and never["high"] is None
    assert between(never, ".0f") == "never (3 to never)"


def test_aims_are_reached_by_the_mean_and_surely_by_the_whole_interval():
    def variant(needed, front):
        return {
            "units_to_random_final": dict(zip(("value", "low", "high"), needed, strict=True)),
            "front_at_tenth": dict(zip(("value", "low", "high"), front, strict=True)),
        }

    variants = {
        "sure": variant((3.0, 2.0, 4.0), (0.7, 0.6, 0.8)),
        "perhaps": variant((4.0, 2.0, None), (0.5, 0.3, 0.7)),
        "not": variant((None, None, None), (0.2, 0.1, 0.3)),
    }
    judged = {"units": 12, "tenth": 3, "architectures": 27, "variants": variants}
    assert list(aims(judged).values()) == [["sure (surely)", "perhaps"]] * 2
