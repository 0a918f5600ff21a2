from dataclasses import dataclass, field, replace

import pytest

from nas.architecture import Attention
from nas.measurement import Measurement
from nas.study.candidate import Candidate, Rejected
from nas.study.confirmation.costs import is_predicted
from tests.study.toys import FreeEvaluator, run_toy


def layers_of(candidate: Candidate) -> int:
    return sum(isinstance(m, Attention) for m in candidate.architecture.mixers)


@dataclass
class Predictor(FreeEvaluator):
    """Predicts one millisecond a layer of attention and one more; a measurement takes `more` beside that.

    Five designs differ in both numbers, of each there are up to six with their layers in another order. The first
    with `too_large` layers of attention turns out not to fit.
    """

    more: float = 0.0
    too_large: int | None = None
    measures: bool = True
    confirmed: list[str] = field(default_factory=list)

    def measure(self, candidate: Candidate) -> None:
        time = Measurement.exact(1.0 + layers_of(candidate), "ms")
        candidate.measurements = {"decode_latency_ms": replace(time, source="table")}
        candidate.costs = {"own": {"decode_latency_ms": time.value}}

    def confirm(self, candidate: Candidate) -> bool:
        if not self.measures:
            return False
        name = candidate.architecture.name
        self.confirmed.append(name)
        if [n for n in self.confirmed if n.count("a") == self.too_large] == [name]:
            raise Rejected("needs 9 bytes more than there are", "memory")
        time = 1.0 + layers_of(candidate) + self.more
        candidate.measurements = {"decode_latency_ms": Measurement(value=time, unit="ms", low=time, high=time, n=16)}
        candidate.costs = {"own": {"decode_latency_ms": time}, "roofline": {"decode_latency_ms": 0.1}}
        return True


def members(loop):
    front, required = loop.bars.fronts(loop.rows)
    return [row for row in loop.rows if row.number in {*front, *required}]


def search(directory, evaluator):
    return run_toy(directory, trials=16, sampler="brute_force", evaluator=evaluator)


def test_members_of_the_front_are_measured_and_the_other_rows_stay_predicted(tmp_path):
    loop = search(tmp_path, Predictor())
    assert len(loop.evaluator.confirmed) == len(members(loop)) == 5
    assert not any(map(is_predicted, members(loop)))
    assert sum(map(is_predicted, loop.rows)) == 11
    assert all(set(row.costs) == {"own", "roofline"} for row in members(loop))
    assert all(row.values["decode_latency_ms"].n == 16 for row in members(loop))


def test_measuring_goes_on_until_every_member_is_measured(tmp_path):
    loop = search(tmp_path, Predictor(more=0.5))
    # A twin in both numbers that was only predicted beats the member that turned out slower, until none is left.
    assert len(loop.evaluator.confirmed) == 16
    assert not any(map(is_predicted, loop.rows))
    assert len(members(loop)) == 5


def test_what_was_confirmed_is_not_measured_again_and_known_from_the_start_of_the_next_run(tmp_path):
    first = search(tmp_path, Predictor(more=0.5))
    second = search(tmp_path, Predictor(more=0.5))
    assert second.evaluator.confirmed == []
    assert second.rows == first.rows


def test_a_member_that_cannot_be_deployed_is_rejected_with_the_reason_and_leaves_the_front(tmp_path):
    loop = search(tmp_path, Predictor(too_large=4))
    (lost,) = [row for row in loop.rows if row.state == "rejected"]
    assert lost.reason == "needs 9 bytes more than there are"
    assert lost.number not in {row.number for row in members(loop)}
    assert {path.stem for path in (tmp_path / "architectures").glob("*.yaml")} == {row.id for row in members(loop)}
    again = search(tmp_path, Predictor(too_large=4))
    assert [row.number for row in again.rows if row.state == "rejected"] == [lost.number]


def test_a_late_member_has_its_file_and_the_user_is_told_that_it_has_no_weights(tmp_path):
    loop = search(tmp_path, Predictor(too_large=3))
    folder = tmp_path / "architectures"
    assert {path.stem for path in folder.glob("*.yaml")} == {row.id for row in members(loop)}
    late = [row for row in members(loop) if not (folder / f"{row.id}.safetensors").exists()]
    assert [row.architecture.name.count("a") for row in late] == [3]
    told = f"trial {late[0].number} came onto the front after its training, so its weights were not kept"
    assert told in loop.observer.messages


def test_where_predictions_are_all_that_is_wanted_rows_stay_as_they_are(tmp_path):
    loop = search(tmp_path, Predictor(measures=False))
    assert all(map(is_predicted, loop.rows))
    assert len(members(loop)) == 5


def test_what_was_measured_before_an_interruption_is_kept(tmp_path):
    class Interrupted(Predictor):
        def confirm(self, candidate):
            if len(self.confirmed) == 2:
                raise KeyboardInterrupt
            return super().confirm(candidate)

    with pytest.raises(KeyboardInterrupt):
        search(tmp_path, Interrupted())
    assert len(search(tmp_path, Predictor()).evaluator.confirmed) == 3
