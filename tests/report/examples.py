"""Studies made by hand, of the shape that a search gives, for the tests of the report."""

import math
from dataclasses import replace

from nas.architecture import (
    Architecture,
    Attention,
    Block,
    GatedDeltaNet,
    Glu,
    HeadMix,
    Mamba1,
    Mamba2,
    MixerOptions,
    Moe,
    NoFfn,
    canonical_id,
)
from nas.measurement import Measurement, Source
from nas.objectives import Objective, Requirement, parse_objectives, parse_requirements
from nas.study.robust import robust_members
from nas.study.rows import NoiseFloor, Row, StudyResult

OBJECTIVES: tuple[Objective, ...] = parse_objectives(["text_loss", "time_per_output_token_ms", "sequence_bytes"])
REQUIREMENTS: tuple[Requirement, ...] = parse_requirements({"recall": 0.9})

FULL = Attention(num_heads=4, head_dim=32)
BUSY = "busy: other processes took 31 % of the CPU"
WINDOW = Attention(num_heads=4, head_dim=32, window=64, position="none")
MAMBA2 = Mamba2(num_heads=4, head_dim=32)
MAMBA1 = Mamba1(num_heads=8, head_dim=32)
DELTA = GatedDeltaNet(num_heads=4, head_dim=32)
MIX = HeadMix(parts=(replace(FULL, num_heads=1), replace(MAMBA2, num_heads=3)))


def design(mixers: list[MixerOptions], *, name: str = "unnamed", experts: bool = False) -> Architecture:
    """One block a mixer; every other FFN is one of experts if asked for; the last block of six or more has none."""
    moe = Moe(num_experts=8, top_k=2, d_ff=96)
    ffns = [moe if experts and i % 2 else Glu(d_ff=352) for i in range(len(mixers))]
    blocks = [Block(mixer=mixer, ffn=ffn) for mixer, ffn in zip(mixers, ffns, strict=True)]
    if len(blocks) >= 6:
        blocks[-1] = Block(mixer=mixers[-1], ffn=NoFfn())
    return Architecture(name=name, d_model=128, vocab_size=256, blocks=tuple(blocks))


def trained_row(
    number: int,
    mixers: list[MixerOptions],
    numbers: tuple[float, float, float, float],
    *,
    origin: str = "sampled",
    experts: bool = False,
) -> Row:
    """Trial 13 is slow under the fastest kernels at hand.

    `numbers`: text loss in bits per byte, recall, time per output token in ms, MiB of a sequence.
    """
    loss, recall, latency, size = numbers
    architecture = design(mixers, experts=experts)
    deployed = replace(architecture, d_model=1024, vocab_size=32000, blocks=architecture.blocks * 4)
    notes = ("median known to 1 %", *((BUSY,) if number in (3, 7, 9) else ()))
    measured = Measurement(value=latency, unit="ms", low=latency * 0.98, high=latency * 1.04, n=16, notes=notes)
    return Row(
        number=number,
        id=canonical_id(architecture),
        state="complete",
        reason=None,
        origin=origin,
        architecture=architecture,
        deployed=deployed,
        values={
            "parameters": Measurement.exact(391_000_000 + 1000 * number, "parameters"),
            "sequence_bytes": Measurement.exact(round(size * 2**20), "bytes"),
            "time_per_output_token_ms": measured,
            "text_loss": score(loss, "bits/byte", 0.006, 64),
            "recall": score(recall, "share", 0.01, 512),
        },
        costs={
            model: {"time_per_output_token_ms": latency * factor}
            for model, factor in {"own": 1.0, "best": 1.1 if number == 13 else 0.9, "roofline": 0.3}.items()
        },
        seconds={"count": 0.01, "measure": 1.2, "train": 21.5},
        seed=number + 7,
    )


def score(value: float, unit: str, error: float, n: int) -> Measurement:
    return Measurement(value=value, unit=unit, low=value - error, high=value + error, n=n, source="scored")


def from_source(row: Row, source: Source, names: tuple[str, ...] = ("time_per_output_token_ms",)) -> Row:
    """The row with these numbers from another source: an estimate has one sample, and low and high are its value."""

    def changed(m: Measurement) -> Measurement:
        return replace(
            Measurement.exact(m.value, m.unit) if source == "estimate" else m, source=source, notes=(f"a {source}",)
        )

    return replace(row, values=row.values | {name: changed(row.values[name]) for name in names if name in row.values})


def ended_row(number: int, state: str, reason: str, mixers: list[MixerOptions]) -> Row:
    """A trial that was not trained to the end: `rejected`, `duplicate` or `failed`."""
    whole = trained_row(number, mixers, (9.0, 0.0, 9.0, 9.0))
    values = {} if state == "duplicate" else {name: whole.values[name] for name in ("parameters", "sequence_bytes")}
    return replace(whole, state=state, reason=reason, values=values, seconds={"count": 0.01})  # type: ignore[arg-type]


def rows() -> tuple[Row, ...]:
    """Fourteen trials: five reference designs, six samples that were trained, three that were not."""
    return (
        trained_row(0, [FULL] * 4, (2.120, 0.981, 31.0, 96.0), origin="reference: all-attention"),
        trained_row(1, [MAMBA2] * 7 + [FULL], (2.101, 0.930, 14.0, 13.5), origin="reference: attention-mamba2-1-7"),
        trained_row(2, [DELTA] * 3 + [FULL], (2.082, 0.975, 16.2, 25.0), origin="reference: gated-deltanet-3-1"),
        trained_row(
            3, [MAMBA1, WINDOW] * 3, (2.150, 0.610, 11.5, 4.2), origin="reference: sliding-window-with-recurrence"
        ),
        trained_row(4, [MIX] * 4, (2.090, 0.905, 22.0, 26.1), origin="reference: head-mixed"),
        ended_row(
            5, "rejected", "sequence_bytes 201,326,592 bytes is over the limit of 134,217,728 bytes.", [FULL] * 8
        ),
        trained_row(6, [MAMBA2] * 4, (2.161, 0.402, 9.1, 2.1)),
        trained_row(7, [DELTA, MAMBA2, DELTA, FULL], (2.079, 0.968, 17.1, 25.2), experts=True),
        ended_row(8, "duplicate", "computes the same as trial 6", [MAMBA2] * 4),
        trained_row(9, [DELTA] * 4, (2.118, 0.701, 10.2, 2.9)),
        ended_row(10, "failed", "the loss of text was not finite at step 12", [MAMBA1] * 4),
        trained_row(11, [FULL, WINDOW] * 2, (2.125, 0.940, 24.8, 50.0)),
        trained_row(12, [DELTA, DELTA, MIX, DELTA, DELTA, MIX], (2.071, 0.952, 18.9, 14.8), experts=True),
        trained_row(13, [MAMBA2, MAMBA2, MAMBA2, FULL], (2.098, 0.951, 15.5, 25.1)),
    )


def result(of: tuple[Row, ...] | None = None, *, objectives: tuple[Objective, ...] = OBJECTIVES) -> StudyResult:
    """The study of these rows (all fourteen, unless told), with fronts that are right for the objectives."""
    given = rows() if of is None else of
    complete = [row for row in given if row.state == "complete"]
    good = [row for row in complete if row.values["recall"].value >= 0.9 * 0.981]
    return StudyResult(
        study="hybrid-cpu",
        rows=given,
        front=front(complete, objectives),
        front_required=front(good, objectives),
        robust=robust_members(given, objectives),
        reference=0 if complete else None,
        noise=(
            NoiseFloor(name="text_loss", unit="bits/byte", values=(2.120, 2.127, 2.116), sd=0.0056, design_sd=0.0262),
            NoiseFloor(name="recall", unit="share", values=(0.981, 0.976, 0.979), sd=0.0025, design_sd=0.1542),
        ),
        hypervolume=0.4312,
        settings={
            "seed": 0,
            "budget": {"name": "cpu", "trials": 12, "tokens": 400_000},
            "measure": {"context": 65536, "batch": 1, "dtype": "bfloat16"},
            "costs": {
                "costs": "whole networks, measured",
                "roofline": {
                    "name": "NVIDIA H200",
                    "tflops": {"bfloat16": 989.0, "float32": 67.0},
                    "bandwidth": 4800.0,
                    "memory": 141.0,
                    "cache_mb": 60.0,
                    "source": "the maker's data sheet",
                },
            },
            "optimize": ["text_loss", "time_per_output_token_ms", "sequence_bytes"],
        },
        environment={
            "device": "CPU, 2 cores",
            "measured on": "NVIDIA H200",
            "versions": {"python": "3.11.2", "torch": "2.13.0", "optuna": "5.0.0"},
            "commit": "0123abc",
        },
        seconds=421.0,
        tool_seconds=9.3,
    )


def front(complete: list[Row], objectives: tuple[Objective, ...]) -> tuple[int, ...]:
    """Trial numbers of the rows that no other row beats in one number and matches in the rest."""

    def cost(row: Row) -> list[float]:
        return [(1 if o.direction == "minimize" else -1) * row.values[o.name].value for o in objectives]

    def beaten(row: Row) -> bool:
        mine = cost(row)
        return any(
            theirs != mine and all(t <= m for t, m in zip(theirs, mine, strict=True)) for theirs in map(cost, complete)
        )

    assert all(math.isfinite(c) for row in complete for c in cost(row))
    return tuple(row.number for row in complete if not beaten(row))
