"""Prints how an architecture maps to its deployment: what is trained on the left, what is measured on the right.

    python scripts/show_resize.py all-attention
    python scripts/show_resize.py outputs/<study>/architectures/<id>.yaml measure.parameters=1.3e9 budget=gpu_1h

Every option of every block stands there before and after, with the role that it plays in resizing, and the counts of
both networks. The overrides are those of search.py.
"""

import argparse
from collections.abc import Iterator
from dataclasses import fields

from nas.architecture import Architecture, Block, HeadMix, diagram
from nas.architecture.options import Options, role_of
from scripts.command_line import composing, speaking_to_users
from scripts.settings import SearchSettings, read_design


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "architecture", help="the name of a design in conf/designs, or the path of an architecture file"
    )
    parser.add_argument("overrides", nargs="*", help="overrides of search.py, such as measure.parameters=1.3e9")
    arguments = parser.parse_intermixed_args()
    with speaking_to_users(interrupted="Nothing was written."):
        with composing(arguments.overrides):
            settings = SearchSettings.from_overrides(arguments.overrides)
        for line in mapping(proxy_of(arguments.architecture, settings), settings):
            print(line)


def proxy_of(name: str, settings: SearchSettings) -> Architecture:
    """A design as the search would train it, where it lies in the search space; else the architecture as it stands."""
    from nas.count import match_parameters

    architecture = read_design(name)
    placed = dict(settings.space.references([architecture]))
    if architecture.name not in placed:
        return architecture
    sampled = settings.space.at(placed[architecture.name])
    return sampled if settings.parameters is None else match_parameters(sampled, settings.parameters)


def mapping(proxy: Architecture, settings: SearchSettings) -> Iterator[str]:
    """The lines of the mapping."""
    from nas.count import count, deployed
    from nas.measure import DTYPES, dtype_of

    deployment = settings.deployment
    large = deployed(proxy, deployment)
    yield f"{proxy.name}: {diagram(proxy)} -> {diagram(large)}"
    yield f"{'':<34}{'proxy':>16}{'deployed':>18}"
    yield row("layers", len(proxy.blocks), len(large.blocks))
    yield row("d_model", proxy.d_model, large.d_model)
    yield row("vocab_size", proxy.vocab_size, large.vocab_size)
    yield row("aspect ratio (d_model / layers)", ratio(proxy), ratio(large))
    dtype, length = DTYPES[dtype_of(deployment)], deployment.workload.length
    small, big = (count(a, length, dtype=dtype) for a in (proxy, large))
    yield row("parameters", small.parameters, big.parameters)
    yield row("active parameters", small.active_parameters, big.active_parameters)
    yield row(f"bytes per sequence at {length:,}", small.sequence_bytes, big.sequence_bytes)
    yield row(f"FLOPs per token at {length:,}", small.flops_decode, big.flops_decode)
    sources = [source_of(i, proxy, large, deployment.depth_by) for i in range(len(large.blocks))]
    for index, block in enumerate(proxy.blocks):
        deployed_at = [i for i, source in enumerate(sources) if source == index]
        yield f"block {index} -> {', '.join(map(str, deployed_at)) or 'left out'}"
        if deployed_at:
            yield from block_rows(block, large.blocks[deployed_at[0]])


def source_of(index: int, proxy: Architecture, large: Architecture, depth_by: str) -> int:
    """The block of the proxy that a deployed block repeats."""
    return index % len(proxy.blocks) if depth_by == "stack" else index * len(proxy.blocks) // len(large.blocks)


def block_rows(small: Block, large: Block) -> Iterator[str]:
    for part, resized in ((small.mixer, large.mixer), (small.ffn, large.ffn)):
        if isinstance(part, HeadMix) and isinstance(resized, HeadMix):
            yield f"  {part.kind}, fuse {part.fuse}"
            for inner, inner_resized in zip(part.parts, resized.parts, strict=True):
                yield from option_rows(inner, inner_resized)
        else:
            yield from option_rows(part, resized)


def option_rows(part: Options, resized: Options) -> Iterator[str]:
    yield f"  {part.kind}" + ("" if fields(part) else ", absent")
    for field in fields(part):
        before, after = getattr(part, field.name), getattr(resized, field.name)
        if before is not None:
            yield row(f"    {field.name} ({role_of(type(part), field.name)})", before, after)


def ratio(architecture: Architecture) -> float:
    return round(architecture.d_model / len(architecture.blocks), 2)


def row(name: str, before: object, after: object) -> str:
    return f"{name:<34}{shown(before):>16}{shown(after):>18}"


def shown(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


if __name__ == "__main__":
    main()
