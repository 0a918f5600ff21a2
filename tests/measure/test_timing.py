"""One phase in all its ways: our kernels and others', both ends, and the difference between two networks."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

import kernels
from nas.architecture import Block
from nas.measure import timing
from nas.measure.ends import WORDS
from nas.measure.random_model import random_model
from nas.measure.rivals import Rival
from nas.measure.timing import (
    EAGER,
    GRAPH,
    OWN,
    Effort,
    per_block,
    prepared,
    rivals_of,
    slower_end,
    summary,
    time_difference,
    time_in_rotation,
    time_phase,
)
from nas.measurement import Measurement
from nas.model import Model
from nas.workload import Decode, Phase, Prefill, TrainStep
from tests.measure.counted_work import CountedWork
from tests.measure.examples import ATTENTION, CPU, DECODE, GLU, MAMBA2, MOE, QUICK, ms, network

PREFILL = Prefill(batch=1, prompt=24)


def model_of(*blocks: Block) -> Model:
    return random_model(network(*blocks), CPU, torch.float32)


def rival(name: str, function: str, call: Callable[..., Any]) -> Rival:
    return Rival(name=name, function=function, call=call, devices=("cpu",))


def declines(*_: Any, **__: Any) -> Any:
    return NotImplemented


def test_only_the_operations_that_a_call_uses_get_rivals() -> None:
    at_hand = {
        "attention": [rival("a", "attention", declines)],
        "attention_step": [rival("b", "attention_step", declines), rival("c", "attention_step", declines)],
        "matrix_recurrence_step": [rival("d", "matrix_recurrence_step", declines)],
    }

    def names(block: Block, phase: Phase) -> list[str]:
        with prepared(model_of(block), phase, CPU, {}) as calls:
            return [found.name for found in rivals_of(calls.functions[OWN, None, EAGER], at_hand)]

    assert names(Block(mixer=ATTENTION), PREFILL) == ["a"]
    assert names(Block(mixer=ATTENTION), DECODE) == ["b", "c"]
    assert names(Block(mixer=MAMBA2), DECODE) == ["d"]
    assert names(Block(ffn=GLU), DECODE) == []


def test_a_rival_runs_in_the_place_of_our_kernel_and_only_in_its_own_way() -> None:
    ran: list[str] = []

    def other(*_: Any, **__: Any) -> Any:
        ran.append("other")
        return NotImplemented

    rivals = {"attention_step": [rival("other", "attention_step", other)]}
    with prepared(model_of(Block(mixer=ATTENTION)), DECODE, CPU, rivals) as calls:
        assert set(calls.functions) == {(OWN, None, EAGER), ("other", None, EAGER)}
        ran.clear()
        calls.functions[OWN, None, EAGER]()
        assert ran == []
        calls.functions["other", None, EAGER]()
        assert ran == ["other"]
    assert calls.notes == [], "on a CPU nothing is said about graphs"


def test_a_slow_rival_is_not_the_best_and_a_fast_one_is(counted_work: CountedWork) -> None:
    def slow(*args: Any, **options: Any) -> Any:
        torch.zeros(100_000)
        return NotImplemented

    rivals = {"attention_step": [rival("slow", "attention_step", slow)]}
    found = time_phase(model_of(Block(mixer=ATTENTION)), DECODE, CPU, replace(QUICK, rivals=rivals))
    assert found.best_by == OWN
    assert found.best.value == found.own.value
    assert found.best.notes[-1] == "fastest: own"

    def fast(q: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return q

    rivals = {"attention_step": [rival("fast", "attention_step", fast)]}
    long = Decode(batch=1, context=50_000)
    found = time_phase(model_of(Block(mixer=ATTENTION)), long, CPU, replace(QUICK, rivals=rivals))
    assert found.best_by == "fast"
    assert found.best.value < found.own.value
    assert "fastest: fast" in found.best.notes and "fastest: fast" not in found.own.notes


def test_rivals_of_several_operations_that_are_faster_alone_are_tried_together() -> None:
    ran: list[str] = []

    def noting(name: str) -> Callable[..., Any]:
        def note(*_: Any, **__: Any) -> Any:
            ran.append(name)
            return NotImplemented

        return note

    step, product = "attention_step", "glu"
    rivals = [
        rival("a", step, noting("a")),
        rival("b", step, noting("b")),
        rival("c", product, noting("c")),
        rival("d", product, noting("d")),
    ]
    alone = {OWN: 4.0, "a": 3.5, "b": 3.0, "c": 2.5, "d": 5.0}

    @dataclass(frozen=True, kw_only=True)
    class Told(Effort):
        """In the second round the machine is half as fast."""

        def time(self, calls: Any, device: torch.device) -> dict[Any, Measurement]:
            ran.clear()
            for call in calls.values():
                call()
            second = any("+" in way for way, _, _ in calls)
            return {key: ms(8.0 if key[0] == OWN else 3.0) if second else ms(alone[key[0]]) for key in calls}

    effort = Told(seconds=1.0, spread=0.1, rivals={step: rivals[:2], product: rivals[2:]})
    found = time_phase(model_of(Block(mixer=ATTENTION, ffn=GLU)), DECODE, CPU, effort)
    assert found.best_by == "c + b", "the faster first, and not the one that is slower than ours"
    assert (found.own.value, found.best.value) == (4.0, 1.5)
    assert ran == ["b", "a", "c"], "what the first declines is asked of the next; d lost"
    alone |= {"c": 4.5}
    one = time_phase(model_of(Block(mixer=ATTENTION, ffn=GLU)), DECODE, CPU, effort)
    assert (one.best_by, one.best.value) == ("b", 3.0), "one operation alone needs no second round"


def test_blocks_are_timed_with_the_rivals_of_several_operations_together() -> None:
    def fast(x: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        return x

    rivals = {"attention_step": [rival("a", "attention_step", fast)], "glu": [rival("c", "glu", fast)]}

    @dataclass(frozen=True, kw_only=True)
    class Told(Effort):
        def time(self, calls: Any, device: torch.device) -> dict[Any, Measurement]:
            milliseconds = {OWN: 4.0, "a": 3.0, "c": 2.0, "c + a": 1.0}
            return {key: ms((1 + 4 * key[0]) * milliseconds[key[1][0]]) for key in calls}

    block = Block(mixer=ATTENTION, ffn=GLU)
    effort = Told(seconds=1.0, spread=0.1, rivals=rivals)
    found = time_difference(model_of(block), model_of(block, block, block, block, block), 4, DECODE, CPU, effort)
    assert (found.own.value, found.best.value, found.best_by) == (4.0, 1.0, "c + a")


def test_substitutes_are_gone_after_timing() -> None:
    rivals = {"attention_step": [rival("wrong", "attention_step", lambda q, *_, **__: q * float("nan"))]}
    time_phase(model_of(Block(mixer=ATTENTION)), DECODE, CPU, replace(QUICK, rivals=rivals))
    q, k = torch.randn(1, 2, 32), torch.randn(1, 4, 2, 32)
    assert kernels.attention_step(q, k, k, 4).isfinite().all()


def test_a_network_whose_cost_depends_on_content_is_timed_at_both_ends() -> None:
    found = time_phase(model_of(Block(ffn=MOE)), PREFILL, CPU, QUICK)
    for words in WORDS.values():
        assert any(note.endswith(f"ms with {words}") for note in found.own.notes)
    plain = time_phase(model_of(Block(ffn=GLU)), PREFILL, CPU, QUICK)
    assert not any("routing" in note for note in plain.own.notes)


def test_the_time_is_that_of_the_slower_end_replayed_where_it_can_be() -> None:
    times = {
        (OWN, "spread", EAGER): ms(5.0),
        (OWN, "concentrated", EAGER): ms(4.0),
        (OWN, "spread", GRAPH): ms(2.0),
        (OWN, "concentrated", GRAPH): ms(3.0),
        ("other", "spread", EAGER): ms(1.0),
    }
    slower = slower_end(times, OWN)
    assert slower.value == 3.0
    assert "replayed as a graph; eager 4 ms" in slower.notes
    assert f"2 ms with {WORDS['spread']}" in slower.notes and f"3 ms with {WORDS['concentrated']}" in slower.notes
    found = summary(times, ["no graph: why", "no graph: why"])
    assert (found.own.value, found.best.value, found.best_by) == (3.0, 1.0, "other")
    assert found.own.notes.count("no graph: why") == 1


def test_a_block_takes_the_difference_over_its_repeats_with_the_spread_of_both() -> None:
    few, many = ms(10.0, 3.0), replace(ms(50.0, 4.0), n=5)
    each = per_block(few, many, 4)
    assert (each.value, each.n) == (10.0, 5)
    assert each.high - each.value == pytest.approx(5.0 / 4)
    assert each.notes == many.notes
    none = per_block(many, few, 4)
    assert (none.value, none.low, none.notes[-1]) == (
        0.0,
        0.0,
        "more blocks took no longer (-40 ms): lost in the spread",
    )


def test_two_networks_are_timed_in_turn_and_what_one_has_more_is_shared_among_its_blocks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def known(calls: dict, device: torch.device, **_: object) -> dict:
        return {(which, key): ms(50.0 if which else 10.0) for which, key in calls}

    monkeypatch.setattr(timing, "time_together", known)
    few, many = model_of(Block(ffn=GLU)), model_of(*[Block(ffn=GLU)] * 5)
    found = time_difference(few, many, 4, DECODE, CPU, QUICK)
    assert (found.own.value, found.best.value, found.best_by) == (10.0, 10.0, OWN)


def test_the_difference_of_two_networks_is_about_one_of_the_blocks_they_differ_by(counted_work: CountedWork) -> None:
    block = Block(mixer=ATTENTION, ffn=GLU)
    phase = Decode(batch=1, context=2000)
    few, many, more = (model_of(*[block] * repeats) for repeats in (1, 5, 9))
    effort = Effort(seconds=0.4, spread=0.02, rivals={})
    each = time_difference(few, many, 4, phase, CPU, effort).own.value
    nine = time_phase(more, phase, CPU, effort).own.value
    assert each == pytest.approx(nine / 9, rel=0.1), "embedding and head take the rest"


def test_equal_networks_are_timed_in_turn() -> None:
    models = [model_of(Block(ffn=GLU)) for _ in range(3)]
    steps: list[int] = []
    for index, model in enumerate(models):

        def step(tokens, state, index=index, run=model.step):
            steps.append(index)
            return run(tokens, state)

        model.step = step  # type: ignore[method-assign]
    time = time_in_rotation(models, DECODE, CPU, QUICK)
    assert time.value > 0
    counts = [steps.count(index) for index in range(3)]
    assert max(counts) - min(counts) <= 1
    assert steps[:3] == [0, 1, 2]


def test_every_phase_can_be_timed() -> None:
    model = model_of(Block(mixer=ATTENTION, ffn=GLU))
    for phase in (DECODE, PREFILL, TrainStep(batch=1, tokens=16)):
        own = time_phase(model, phase, CPU, QUICK).own
        assert 0 < own.low <= own.value <= own.high
        assert own.n >= 1 and own.source == "measured"
