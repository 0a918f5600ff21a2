"""Which published methods are choices here, what each is held against, and how far apart the two are.

    python scripts/list_families.py                runs every oracle; docs/benchmarks/families.json, docs/families.md
    python scripts/list_families.py jamba mamba    runs those; the numbers of the others stay
    python scripts/list_families.py --render       runs none; writes docs/families.md from the numbers that there are

Errors come from running the oracles of `scripts/interop_oracles` and from nowhere else. Needs `transformers`.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nas.architecture import MIXERS as KINDS
from nas.architecture import Architecture, diagram, did_you_mean, read_architecture
from nas.compile import FFNS, MIXERS
from nas.count import count_parameters
from nas.interop import load_pretrained
from nas.interop.families import FAMILIES
from nas.measure.sources import closure, kernels_of
from nas.training.rates import read_table
from scripts.command_line import UserError, speaking_to_users
from scripts.interop_oracles import ORACLES, compare, saved
from scripts.methods import DIFFUSION, EXPERTS, FULL, METHODS, Method, told
from scripts.provenance import commit, version_of

ROOT = Path(__file__).resolve().parent.parent
DESIGNS = ROOT / "conf/designs"
NUMBERS, PAGE = ROOT / "docs/benchmarks/families.json", ROOT / "docs/families.md"
INTRODUCTION = """# Families

Which methods of the survey *Speed Always Wins* (arXiv 2508.09834) are choices here, and what holds them. This page is
written by `python scripts/list_families.py`; errors are the largest difference of a logit between a tiny model of
`transformers` with random weights and ours with the same weights, over a whole sequence and decoding token by token,
in float32. The oracles set options that are not the defaults (`scripts/interop_oracles`); at which commit and with
which versions each was run stands in `docs/benchmarks/families.json`.
"""
NOTES = {
    FULL: """Biases by distance have no buckets for later keys: they read one way at a time. They are no option of the
kernel: T5's are formed in PyTorch for the keys that have buckets of their own, and far keys are left to the kernel;
ALiBi, one number times the distance, is a forget gate that never changes, which the kernel has.""",
    EXPERTS: """Experts that choose their tokens compare a token with later ones: under a causal loss they are refused.
They choose within a sequence, not within a batch, so that what a sequence gives depends on it alone.""",
    DIFFUSION: """Every mixer takes `direction: both`. Attention without a window or biases, latent and differential
attention and a mixture of heads see both ways at once; the others read twice, with the same weights.""",
}
"""What is not told by a row, by direction."""
ORACLE_HEAD = """
## Oracles

Largest differences of logits, of the loss (relative) and of gradients (relative to the largest of their parameter), and
whether greedy generation gives the same 20 tokens. Layers are drawn as in `nas/architecture/diagram.py`.

| oracle | model type | layers | whole sequence | decoding | same tokens | loss | gradients |
|---|---|---|---|---|---|---|---|
"""

DESIGN_HEAD = """
## Designs

Published architectures as files in `conf/designs`, with where their sizes come from.

| design | layers | parameters | what and whence |
|---|---|---|---|
"""


RATES_HEAD = """
## Learning rates

The table of rates (`scripts/tune_lr.py`) has a row for some kinds of mixers; the others are trained at the rates of the
kind named here, which were not measured for them. Parts of a `head_mix` have those of their kinds each; what is around
the mixers, FFNs and norms among it, has those of the mixer of its block.

| rates measured for | taken as they are by |
|---|---|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("oracles", nargs="*", metavar="ORACLE", help=f"which to run (all): {', '.join(ORACLES)}")
    parser.add_argument("--render", action="store_true", help="run none")
    arguments = parser.parse_args()
    with speaking_to_users(interrupted="Nothing was written."):
        unknown = sorted(set(arguments.oracles) - set(ORACLES))
        if unknown:
            raise UserError(f"There is no oracle {unknown[0]!r}. {did_you_mean(unknown[0], ORACLES)}")
        numbers = json.loads(NUMBERS.read_text()) if arguments.render or arguments.oracles else {}
        if not arguments.render:
            numbers |= {name: compared(name) for name in arguments.oracles or ORACLES}
            numbers = {name: numbers[name] for name in ORACLES if name in numbers}
            NUMBERS.write_text(json.dumps(numbers, indent=1) + "\n")
        PAGE.write_text(rendered(numbers))
        print(f"{NUMBERS}, {PAGE}")


def compared(name: str) -> dict[str, Any]:
    """One oracle, built, saved, loaded and compared, with what the numbers depend on."""
    oracle = ORACLES[name]
    theirs = oracle.build()
    with tempfile.TemporaryDirectory() as directory:
        architecture, ours = load_pretrained(saved(theirs, Path(directory)))
    print(f"{name}: {architecture.name}", file=sys.stderr)
    versions = {package: version_of(package) for package in ("torch", "transformers")}
    found = asdict(compare(theirs, ours))
    return described(architecture) | found | {"commit": commit(), **versions}


def described(architecture: Architecture) -> dict[str, Any]:
    """What of an oracle's row does not have to be measured."""
    methods = [method.name for method in METHODS if method.lies_in(architecture)]
    return {"model_type": architecture.name, "layers": diagram(architecture), "methods": methods}


def rendered(numbers: Mapping[str, Any]) -> str:
    """The page."""
    lines = [INTRODUCTION]
    for direction in dict.fromkeys(method.direction for method in METHODS):
        lines += [f"## {direction}\n", "| method | kind and options | held against | largest error | kernels |"]
        lines += ["|---|---|---|---|---|"]
        lines += [row(method, numbers) for method in METHODS if method.direction == direction] + [""]
        lines += [NOTES[direction], ""] if direction in NOTES else []
    lines += [ORACLE_HEAD.strip()]
    lines += [oracle_row(name, numbers[name]) for name in sorted(numbers)]
    lines += [DESIGN_HEAD.rstrip(), *(design_row(path) for path in sorted(DESIGNS.glob("*.yaml")))]
    lines += [RATES_HEAD.rstrip(), *rate_rows()]
    types = ", ".join(f"`{name}`" for name in sorted(FAMILIES))
    lines += ["", f"Tables for {len(FAMILIES)} types of models: {types}.", ""]
    return "\n".join(lines)


def row(method: Method, oracles: Mapping[str, Any]) -> str:
    """A method's line: its oracles are those in which it lies."""
    found = {name: oracle for name, oracle in oracles.items() if method.name in oracle["methods"]}
    against = sorted({f"`{oracle['model_type']}`" for oracle in found.values()}) + [f"`{t}`" for t in method.tests]
    errors = [oracle[what] for oracle in found.values() for what in ("logits", "decoding")]
    error = f"{max(errors):.1e}" if errors else "–"
    return f"| {method.name} | {told(method)} | {', '.join(against)} | {error} | {kernels(method)} |"


def kernels(method: Method) -> str:
    """The operations of `kernels` that the layer of a kind calls."""
    build = {**MIXERS, **FFNS}.get(method.kind)  # type: ignore[arg-type]
    if not isinstance(build, type):
        return "those of its parts" if build is not None else "–"
    reached = closure(frozenset({build.__module__}))
    rooms = [name for name in reached if name.startswith(("nas.mixers.", "nas.ffns."))]
    return ", ".join(f"`{name}`" for name in sorted({kernel for room in rooms for kernel in kernels_of(room)}))


def rate_rows() -> list[str]:
    """A line for each mixer whose learning rates were measured, with the kinds that take them unmeasured."""
    borrowers: dict[str, list[str]] = {family: [] for rows in read_table()["tasks"].values() for family in rows}
    for kind, options in KINDS.items():
        if options.family in borrowers and options.family != kind:
            borrowers[options.family].append(f"`{kind}`")
    return [f"| `{family}` | {', '.join(kinds) or '–'} |" for family, kinds in borrowers.items()]


def oracle_row(name: str, oracle: Mapping[str, Any]) -> str:
    """An oracle's line."""
    numbers = (f"{oracle[what]:.1e}" for what in ("logits", "decoding"))
    training = (f"{oracle[what]:.1e}" for what in ("loss", "gradients"))
    same = "yes" if oracle["continued"] else "NO"
    return f"| {name} | `{oracle['model_type']}` | {' | '.join((oracle['layers'], *numbers, same, *training))} |"


def design_row(path: Path) -> str:
    """A design's line; what it is stands in the comment at the head of its file."""
    architecture = read_architecture(path)
    comment = " ".join(line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#"))
    return f"| `{path.stem}` | {diagram(architecture)} | {count_parameters(architecture):,} | {comment} |"


if __name__ == "__main__":
    main()
