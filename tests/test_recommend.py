"""The command that recommends one design, on a small study."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from nas.architecture import Attention, Mamba2, read_architecture
from nas.measurement import Measurement
from nas.study.candidate import Candidate
from nas.study.confirmation.retrained import Training, agree_on_plan, store
from nas.study.storage.studies import close_study, load_study
from nas.study.trials import rows_of
from scripts.recommend import main
from scripts.settings import SearchSettings
from tests.study.toys import FreeEvaluator, run_toy

MEASURE = {"workloads": ["decode"], "batch": 1, "parameters": 300_000, "vocab_size": 128, "depth": 1.0}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return searched(tmp_path_factory.mktemp("outputs") / "toy", FreeEvaluator())


def searched(directory: Path, evaluator: FreeEvaluator, trials: int = 6) -> Path:
    run_toy(directory, trials=trials, require={"recall": 0.4}, evaluator=evaluator)
    config = SearchSettings.from_overrides([]).config
    config |= {"study": "toy", "optimize": ["text_loss", "decode_latency_ms"], "require": {"recall": 0.4}}
    config["measure"] |= MEASURE
    (directory / "config.yaml").write_text(yaml.safe_dump(config))
    return directory


def told(monkeypatch: pytest.MonkeyPatch, capsys: Any, *arguments: object) -> str:
    monkeypatch.setattr("sys.argv", ["recommend.py", *map(str, arguments)])
    main()
    return capsys.readouterr().out


def test_the_studys_own_costs_count_where_nothing_else_is_asked(study, monkeypatch, capsys) -> None:
    text = told(monkeypatch, capsys, study)
    assert "6 trained designs" in text and "costs as the search measured it" in text
    assert "recommended: trial 0, reference: all-attention" in text, "it has the lowest loss of the toy space"
    assert "by what is known of the noise it meets the bars with a probability of" in text
    assert "runner-up: trial" in text and "how sure:" in text and "when a bar moves:" in text


def test_costs_on_a_described_device_are_taken_again_and_labelled_an_estimate(
    study, monkeypatch, capsys, tmp_path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    exported = tmp_path / "best.yaml"
    text = told(
        monkeypatch, capsys, study, "gpu=h200", "context=4096", "optimize=decode_latency_ms", f"export={exported}"
    )
    assert "300,000 parameters at 4,096 tokens, 1 at a time, on NVIDIA H200; costs estimates: roofline" in text
    assert "decode_latency_ms:" in text and "(estimate)" in text
    assert read_architecture(exported).vocab_size == 128, "the deployed one"


class MixedIsBest(FreeEvaluator):
    """Three layers of attention behind another have the lowest loss, and recall nearly all that four do."""

    def train(self, candidate: Candidate, seed: int, observer: Any, share: float = 1.0) -> None:
        super().train(candidate, seed, observer, share)
        layers = sum(isinstance(mixer, Attention) for mixer in candidate.architecture.mixers)
        loss = (3.0, 2.9, 2.8, 2.54, 2.6)[layers] - 0.04 * isinstance(candidate.architecture.mixers[0], Mamba2)
        spread = {"low": loss - 0.01, "high": loss + 0.01, "n": 64, "source": "scored"}
        candidate.scores = {
            "text_loss": Measurement(value=loss, unit="bits/byte", **spread),
            "recall": Measurement.exact((0.1, 0.2, 0.5, 0.97, 1.0)[layers], "share"),
        }


def test_a_design_is_recommended_for_a_device_a_context_a_concurrency_and_a_bar(monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    study = searched(tmp_path / "toy", MixedIsBest(), trials=14)
    text = told(monkeypatch, capsys, study, "gpu=h200", "context=65536", "concurrency=8", "require.recall=0.95")
    assert "14 trained designs; 300,000 parameters at 65,536 tokens, 8 at a time, on NVIDIA H200" in text
    lines = text.splitlines()
    (best,) = (line for line in lines if line.startswith("recommended: "))
    (second,) = (line for line in lines if line.startswith("runner-up: "))
    assert best.endswith(", sampled: MAAA") and second.endswith((": AMAA", ": AAMA", ": AAAM"))
    assert "    recall: 0.97 share" in lines and any(line.endswith(" sequences (estimate)") for line in lines)
    assert (
        "how sure: 2.8 standard errors ahead in text_loss" in text and "it meets the bars with a probability of" in text
    )
    assert "nearest reference design: trial 0, reference: all-attention: AAAA, 88% of mixers and FFNs alike" in lines
    moved = lines[lines.index("when a bar moves:") + 1]
    tighter = (
        "  require.recall beyond what the recommended design reaches, at 1: trial 0, reference: all-attention: AAAA"
    )
    assert moved == tighter


def test_the_studys_own_bar_on_a_cost_is_judged_by_the_costs_that_are_taken_again(
    study, monkeypatch, capsys, tmp_path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    again = tmp_path / "toy"
    shutil.copytree(study, again)
    config = yaml.safe_load((again / "config.yaml").read_text())
    config["require"] = {"decode_latency_ms": 1e9}
    config["optimize"] = ["text_loss", "time_to_first_token_ms"]
    (again / "config.yaml").write_text(yaml.safe_dump(config))
    text = told(monkeypatch, capsys, again, "gpu=h200", "context=4096")
    assert "costs estimates: roofline" in text and "decode_latency_ms:" in text


def test_confirmed_scores_count_where_there_are_some_and_a_design_that_broke_is_left_out(
    tmp_path, study, monkeypatch, capsys
):
    again = tmp_path / "toy"
    shutil.copytree(study, again)
    opened = load_study(again, "toy")
    rows = rows_of(opened)
    plan = agree_on_plan(opened, rows, seeds=2, tune=False, deciding={"text": "text_loss"}, anew=False)
    for row, loss in ((rows[0], 9.0), (rows[1], 1.0), (rows[2], None)):
        for seed in plan.seeds:
            scores = {} if loss is None else {"text_loss": Measurement.exact(loss + seed % 2 / 100, "bits/byte")}
            scores |= {"recall": Measurement.exact(0.5, "share")} if scores else {}
            failed = "it is not finite" if loss is None else None
            store(opened, row.id, Training(task="text", seed=seed, factor=1.0, scores=scores, failed=failed, seconds=1))
    close_study(opened)
    text = told(monkeypatch, capsys, again)
    assert (
        "the scores of 2 are confirmed on fresh seeds; those of 3 are the search's; 1 that broke on them are left"
        in text
    )
    assert "recommended: trial 1" in text, "trial 0 was best by the search's scores"
    assert "text_loss: 1.005 bits/byte (confirmed)" in text and "2 fresh seeds" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gpu=h300"], "Did you mean 'h200'"),
        (["context=one"], "context must be a whole number of at least 2 tokens, but got 'one'"),
        (["contxt=9"], "There is no field 'contxt'. Did you mean 'context'"),
        (["65536"], "must be field=value"),
        (["require.recall=1.5"], "recall at least 1.5 of what all-attention reaches excludes 6"),
        (["require.recal=0.5"], "There is no objective 'recal'. Did you mean 'recall'"),
        (["optimize=train_step_ms"], "train_step_ms is not known of every design"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(study, arguments, message, monkeypatch, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        told(monkeypatch, capsys, study, *arguments)
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_folder_without_a_study_is_one_sentence(tmp_path, monkeypatch, capsys) -> None:
    with pytest.raises(SystemExit):
        told(monkeypatch, capsys, tmp_path)
    assert "There is no study in" in capsys.readouterr().err
