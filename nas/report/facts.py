"""What a reader needs to judge the numbers of a study, as names and texts; summary, page and picture show the same."""

from collections.abc import Mapping
from typing import Any

from nas.architecture import Architecture
from nas.report.numbers import row_by_number, short, trained
from nas.report.sources import source_label
from nas.study.rows import StudyResult

MEASURED_ON = "measured on"


def facts(result: StudyResult) -> list[tuple[str, str]]:
    """What a reader needs to judge the numbers: trials by state, time, proxy and deployment, where costs come
    from, environment, settings."""
    states = {
        state: sum(r.state == state for r in result.rows) for state in dict.fromkeys(r.state for r in result.rows)
    }
    share = f" ({result.tool_seconds / result.seconds:.1%})" if result.seconds > 0 else ""
    lines = [
        ("study", result.study),
        ("trials", ", ".join(f"{count} {state}" for state, count in states.items()) or "none"),
        ("time", f"{result.seconds:.0f} s, of which the tool's own {result.tool_seconds:.1f} s{share}"),
    ]
    if result.hypervolume is not None:
        lines.append(("hypervolume", short(result.hypervolume)))
    if mapping := mapping_text(result):
        lines.append(("proxy -> deployment", mapping))
    lines += costs_facts(result.settings.get("costs", {}))
    lines += [(f"environment: {name}", text) for name, text in environment(result)]
    settings = {name: value for name, value in result.settings.items() if name != "costs"}
    return lines + [(f"setting: {name}", text) for name, text in flat(settings)]


def environment(result: StudyResult) -> list[tuple[str, str]]:
    """Device and versions; a device whose times were not measured is not said to be one that was measured on."""
    label = source_label(m for row in result.rows for m in row.values.values() if m.unit == "ms")
    names = {MEASURED_ON: f"{label} for"} if label else {}
    return [(names.get(name, name), text) for name, text in flat(result.environment)]


def costs_facts(costs: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Where the costs come from, and the description of the device that the roofline and the capacity stand on."""
    lines = [("costs", str(costs["costs"]))] if "costs" in costs else []
    described = costs.get("roofline")
    if isinstance(described, Mapping):
        peaks = ", ".join(f"{short(peak)} TFLOP/s in {dtype}" for dtype, peak in described["tflops"].items())
        cache = f", cache {short(described['cache_mb'])} MB" if described.get("cache_mb") else ""
        lines.append(
            (
                "described device",
                f"{described['name']}: {peaks}, {short(described['bandwidth'])} GB/s, {short(described['memory'])} GB"
                f"{cache} (source: {described['source']})",
            )
        )
    others = {name: value for name, value in costs.items() if name not in ("costs", "roofline")}
    return lines + [(f"costs: {name}", text) for name, text in flat(others)]


def mapping_text(result: StudyResult) -> str:
    """How the reference design, or the first trained one, was resized for the measurements."""
    candidates = [row_by_number(result, result.reference), *trained(result.rows)]
    row = next((r for r in candidates if r is not None and r.deployed is not None), None)
    if row is None or row.deployed is None:
        return ""
    return f"trial {row.number}: {_size(row.architecture)} -> {_size(row.deployed)}"


def _size(architecture: Architecture) -> str:
    return f"{len(architecture.blocks)} blocks, d_model {architecture.d_model}, vocabulary {architecture.vocab_size}"


def flat(data: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested mappings as dotted names and texts, in order."""
    lines: list[tuple[str, str]] = []
    for name, value in data.items():
        if isinstance(value, Mapping):
            lines += flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            lines.append((f"{prefix}{name}", ", ".join(map(str, value))))
        else:
            lines.append((f"{prefix}{name}", str(value)))
    return lines
