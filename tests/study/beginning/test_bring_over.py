"""A space that has grown goes on with what is known, and a search learns from earlier ones and from files."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.samplers import RandomSampler
from optuna.trial import TrialState

from nas.architecture import canonical_id
from nas.study.bars import Bars
from nas.study.beginning.bring_over import bring_version_over, with_all_rungs
from nas.study.beginning.earlier import Earlier
from nas.study.beginning.warm_start import warm_start
from nas.study.crew import RECORD, Crew
from nas.study.errors import StudyError
from nas.study.loop import Loop
from nas.study.samplers import Prior, make_sampler
from nas.study.storage.studies import close_study, earlier_version, load_study, open_study
from nas.study.storage.versions import is_widened, latest_version
from nas.study.trials import INTERRUPTED, ORIGIN, REASON, note_start, rows_of
from search_spaces import SearchSpace
from tests.study.samplers.test_contract import space_of
from tests.study.toys import OBJECTIVES, FreeEvaluator, Silent

NARROW = space_of("pattern", "search_space.num_layers=[4]", "search_space.alphabet=am", "search_space.period=[1,2]")
WIDE = space_of("pattern", "search_space.num_layers=[4]", "search_space.alphabet=amg", "search_space.period=[1,2]")
SETTINGS = {"search_space": {"alphabet": "am", "params": 1}, "task": "text"}
WIDER = {"search_space": {"alphabet": "amg", "params": 1}, "task": "text"}


class Search:
    """A search of a toy study over a real space, whose evaluator remembers what it trained."""

    def __init__(
        self,
        directory: Path,
        space: SearchSpace,
        definition: dict[str, Any],
        trials: int,
        *,
        name: str = "toy",
        earlier: tuple[Earlier, ...] = (),
        designs: tuple[Any, ...] = (),
    ) -> None:
        self.evaluator = FreeEvaluator()
        study = open_study(directory, name, OBJECTIVES, definition, None)
        self.name, self.said = study.study_name, []
        with Crew(study) as crew:
            with crew.turn():
                before = earlier_version(study, name)
                self.brought = 0 if before is None else bring_version_over(study, before, space)
                self.said = warm_start(study, space, OBJECTIVES, earlier, designs)
            config = {"name": "random"}
            study.sampler = make_sampler(config, seed=1, trials=9, already_sampled=0, space=space, prior=Prior())
            bars = Bars(objectives=OBJECTIVES, requirements=(), limits=(), reference="none")
            loop = Loop(
                study=study,
                crew=crew,
                space=space,
                evaluator=self.evaluator,
                bars=bars,
                observer=Silent(),
                directory=directory,
                trials=trials,
                seed=0,
                patience=50,
            )
            loop.run()
        self.rows = list(loop.rows)
        self.trained = {name for name, _ in self.evaluator.trained}
        close_study(study)


def test_a_space_that_has_grown_opens_a_new_version_that_keeps_the_old_trials(tmp_path):
    first = Search(tmp_path, NARROW, SETTINGS, 4)
    second = Search(tmp_path, WIDE, WIDER, 7)
    assert (first.name, second.name, second.brought) == ("toy", "toy@2", 4)
    assert len(second.evaluator.trained) == 3, "the total counts what the earlier version trained"
    assert {row.id for row in first.rows} <= {row.id for row in second.rows}
    assert len({row.id for row in second.rows}) == 7
    kept = {row.id: row.values for row in first.rows}
    assert all(row.values == kept[row.id] for row in second.rows if row.id in kept)
    assert [row.number for row in second.rows] == list(range(7))
    again = Search(tmp_path, WIDE, WIDER, 8)
    assert (again.name, again.brought, len(again.evaluator.trained)) == ("toy@2", 0, 1)
    study = load_study(tmp_path, "toy")
    assert len(rows_of(study)) == 8, "who reads the study reads its latest version"
    close_study(study)


def test_a_space_does_not_grow_while_workers_are_at_work_on_it_as_it_was(tmp_path):
    study = open_study(tmp_path, "toy", OBJECTIVES, SETTINGS, None)
    far = {"machine": "elsewhere", "pid": 1, "born": 1, "index": 0, "state": "working", "joined": True, "beat": 7}
    study.set_user_attr(f"{RECORD}0.far", far)
    assert Crew(study, interval=0.01).present() == (), "what does not beat on another machine is gone"
    study.set_user_attr(f"{RECORD}0.far", far | {"state": "left"})
    with Crew(study):
        with pytest.raises(StudyError, match=r"^1 worker\(s\) are still at work on toy, .* stop them"):
            open_study(tmp_path, "toy", OBJECTIVES, WIDER, None)
        assert load_study(tmp_path, "toy").study_name == "toy"
    grown = open_study(tmp_path, "toy", OBJECTIVES, WIDER, None)
    assert grown.study_name == "toy@2"


def test_what_was_interrupted_in_the_space_as_it_was_is_taken_up_again_once(tmp_path):
    study = open_study(tmp_path, "toy", OBJECTIVES, SETTINGS, None)
    study.sampler, begun = RandomSampler(seed=0), []
    for end in (TrialState.FAIL, None):  # by Ctrl-C, and by a kill
        trial = study.ask()
        begun.append(NARROW(trial))
        trial.set_user_attr(ORIGIN, f"file: {end}")
        note_start(trial, begun[-1])
        if end is not None:
            trial.set_user_attr(REASON, INTERRUPTED)
            study.tell(trial, state=end)
    close_study(study)
    for trials in (2, 3):
        found = Search(tmp_path, WIDE, WIDER, trials)
    assert found.name == "toy@2" and len(found.rows) == 3
    assert [row.origin for row in found.rows[:2]] == ["file: TrialState.FAIL", "file: None"]
    assert [row.id for row in found.rows[:2]] == [canonical_id(architecture) for architecture in begun]


def test_a_space_that_lost_a_choice_is_refused(tmp_path):
    Search(tmp_path, WIDE, WIDER, 1)
    with pytest.raises(StudyError, match=r"search_space\.alphabet was"):
        Search(tmp_path, NARROW, SETTINGS, 2)


@pytest.mark.parametrize(
    ("old", "new", "widened"),
    [
        ({"d_model": [64]}, {"d_model": [64, 96]}, True),
        ({"d_model": 64}, {"d_model": [64, 96]}, True),
        ({"mixers": ["a"], "d_model": [1, 2]}, {"mixers": ["a", "b"], "d_model": [2, 1]}, True),
        ({"alphabet": "am"}, {"alphabet": "mga"}, True),
        ({"alphabet": "am"}, {"alphabet": "ag"}, False),
        ({"params": 1}, {"params": 2}, False),
        ({"d_model": [64, 96]}, {"d_model": [64]}, False),
        ({"d_model": [64]}, {"d_model": [64]}, False),
        ({"d_model": [64]}, {"d_model": [64], "more": 1}, False),
    ],
)
def test_only_more_choices_widen_a_space(old, new, widened):
    assert is_widened({"search_space": old, "task": 1}, {"search_space": new, "task": 1}) is widened
    assert not is_widened({"search_space": old, "task": 1}, {"search_space": new, "task": 2})


def test_versions_are_counted_by_name():
    assert latest_version("a", []) == 0
    assert latest_version("a", ["a", "b@7", "a@x", "ab"]) == 1
    assert latest_version("a", ["a", "a@2", "a@10"]) == 10


def test_trained_designs_of_a_study_with_the_same_settings_are_known_and_cost_nothing(tmp_path):
    first = Search(tmp_path / "one", NARROW, SETTINGS, 4, name="one")
    earlier = (Earlier(directory=tmp_path / "one", name="one", storage=None),)
    second = Search(tmp_path / "two", WIDE, WIDER, 3, name="two", earlier=earlier)
    assert len(second.evaluator.trained) == 3 and not second.trained & {row.architecture.name for row in first.rows}
    assert len(second.rows) == 7
    assert "4 trained designs" in second.said[0]
    again = Search(tmp_path / "two", WIDE, WIDER, 4, name="two", earlier=earlier)
    assert len(again.rows) == 8 and "0 trained designs" in again.said[0]


def test_of_a_study_with_other_settings_the_front_is_trained_here_first(tmp_path):
    first = Search(tmp_path / "one", NARROW, {**SETTINGS, "task": "other"}, 4, name="one")
    earlier = (Earlier(directory=tmp_path / "one", name="one", storage=None),)
    second = Search(tmp_path / "two", WIDE, WIDER, 6, name="two", earlier=earlier)
    origins = [row.origin for row in second.rows if row.origin.startswith("one: trial ")]
    assert origins and f"{len(origins)} designs on the front" in second.said[0]
    assert {row.id for row in second.rows if row.origin in origins} <= {row.id for row in first.rows}
    assert [row.origin for row in second.rows[: len(origins)]] == origins


def test_a_design_from_a_file_is_trained_first_and_one_outside_the_space_is_told(tmp_path):
    design = replace(Search(tmp_path / "one", WIDE, WIDER, 1).rows[0].architecture, name="mine")
    outside = replace(design, name="theirs", blocks=design.blocks * 3)
    found = Search(tmp_path / "two", WIDE, WIDER, 2, name="two", designs=(design, outside))
    assert found.rows[0].origin == "file: mine" and found.rows[0].id == canonical_id(design)
    assert found.said == [
        "warm start: mine is trained first",
        "warm start: theirs does not lie in this space, or is queued already",
    ]


def test_a_row_that_went_on_brings_what_was_trained_on_all_of_its_rungs(tmp_path):
    (row, *_) = Search(tmp_path, NARROW, SETTINGS, 1).rows
    first = replace(row, number=0, trained=0.25, state="stopped")
    second = replace(row, number=3, trained=0.3, state="stopped", promoted_from=0)
    third = replace(row, number=5, trained=0.7, promoted_from=3)
    read = {0: first, 3: second, 5: third}
    assert with_all_rungs(third, read).trained == pytest.approx(1.25)
    assert with_all_rungs(first, read).trained == 0.25
