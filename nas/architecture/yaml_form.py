"""The architecture file: YAML that a person can read and edit, and that executes nothing when it is loaded.

Only plain scalars, lists and mappings are read. Aliases are refused, because a few lines of them can expand to
gigabytes. Every rule that is broken is one sentence that names the block.
"""

from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import yaml

from nas.architecture.architecture import Architecture, Block
from nas.architecture.errors import ArchitectureError, did_you_mean
from nas.architecture.ffns import FFNS
from nas.architecture.head_mix import HeadMix
from nas.architecture.kinds import MIXERS
from nas.architecture.options import Options
from nas.architecture.presets import PRESETS

MAX_FILE_BYTES = 1_000_000
MAX_BLOCKS = 2_000
MAX_PERIOD = 16
BLOCK_KEYS = ("repeat", *(f.name for f in fields(Block)))
GROUP_KEYS = ("repeat", "blocks")


def to_dict(architecture: Architecture) -> dict[str, Any]:
    """The architecture as nested dicts and lists; repeated blocks and groups are written once with `repeat`."""
    data = options_to_dict(architecture)
    del data["kind"]
    data["blocks"] = _entries(architecture.blocks)
    return data


def _entries(blocks: tuple[Block, ...]) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = []
    while blocks:
        period, count = _repeated(blocks)
        entry: dict[str, Any] = {"repeat": count} if count > 1 else {}
        if period > 1:
            entry["blocks"] = _entries(blocks[:period])
        else:
            block = blocks[0]
            entry |= {"mixer": options_to_dict(block.mixer), "ffn": options_to_dict(block.ffn)}
            entry |= {f.name: getattr(block, f.name) for f in fields(block) if f.metadata and _told(block, f)}
        entries.append(entry)
        blocks = blocks[period * count :]
    return entries


def _repeated(blocks: tuple[Block, ...]) -> tuple[int, int]:
    """(how many of the first blocks are repeated, how often), such that the most are not written again."""
    best = (1, 1)
    for period in range(1, min(MAX_PERIOD, len(blocks) // 2) + 1):
        count = 1
        while blocks[period * count : period * (count + 1)] == blocks[:period]:
            count += 1
        if period * (count - 1) > best[0] * (best[1] - 1):
            best = (period, count)
    return best


def options_to_dict(options: Options) -> dict[str, Any]:
    """The options of one part with its kind; null ones and rare ones at their defaults are left out."""
    data: dict[str, Any] = {"kind": getattr(options, "kind", "architecture")}
    for f in fields(options):
        value = getattr(options, f.name)
        if f.name == "parts":
            data["parts"] = [options_to_dict(part) for part in value]
        elif isinstance(value, Options):
            data[f.name] = options_to_dict(value)
        elif _told(options, f):
            data[f.name] = list(value) if isinstance(value, tuple) else value
    return data


def _told(options: Options, f: Field[Any]) -> bool:
    value = getattr(options, f.name)
    return value is not None and not (f.metadata.get("rare") and value == f.default)


def from_dict(data: object) -> Architecture:
    """The architecture that nested dicts and lists describe; raises ArchitectureError with the place and the rule."""
    given = _mapping(data, "The architecture")
    known = [f.name for f in fields(Architecture)]
    _refuse_unknown(given, known, "The architecture")
    _require(given, [f.name for f in fields(Architecture) if f.default is MISSING] + ["blocks"], "The architecture")
    return Architecture(**{**given, "blocks": tuple(_read_blocks(given["blocks"], "blocks"))})


def _read_blocks(entries: object, place: str) -> list[Block]:
    if not isinstance(entries, list):
        raise ArchitectureError(f"{place} must be a list, but got {type(entries).__name__}.")
    blocks: list[Block] = []
    for index, entry in enumerate(entries):
        blocks.extend(_read_block(entry, f"{place}[{index}]"))
        if len(blocks) > MAX_BLOCKS:
            raise ArchitectureError(f"An architecture may have at most {MAX_BLOCKS} blocks, but got more.")
    return blocks


def _read_block(data: object, place: str) -> list[Block]:
    given = _mapping(data, place)
    _refuse_unknown(given, GROUP_KEYS if "blocks" in given else BLOCK_KEYS, place)
    repeat = given.get("repeat", 1)
    if not isinstance(repeat, int) or isinstance(repeat, bool) or not 1 <= repeat <= MAX_BLOCKS:
        raise ArchitectureError(f"{place}: repeat must be a whole number from 1 to {MAX_BLOCKS}, but got {repeat!r}.")
    if "blocks" in given:
        group = _read_blocks(given["blocks"], f"{place}.blocks")
        if len(group) * repeat > MAX_BLOCKS:
            raise ArchitectureError(f"{place}: {len(group)} blocks {repeat} times are more than {MAX_BLOCKS} blocks.")
        return group * repeat
    mixer = read_part(given.get("mixer", {"kind": "none"}), MIXERS, f"{place}.mixer")
    ffn = read_part(given.get("ffn", {"kind": "none"}), FFNS, f"{place}.ffn")
    try:
        wiring = {name: value for name, value in given.items() if name not in ("repeat", "mixer", "ffn")}
        return [Block(mixer=mixer, ffn=ffn, **wiring)] * repeat  # type: ignore[arg-type]
    except ArchitectureError as error:
        raise ArchitectureError(f"{place}: {error}") from None


def read_part(data: object, kinds: Mapping[str, type[Options]], place: str) -> Options:
    """The part of one of `kinds` that a mapping describes; `place` is named in errors (ArchitectureError)."""
    given = dict(_mapping(data, place))
    _require(given, ["kind"], place)
    kind = given.pop("kind")
    if kinds is MIXERS and isinstance(kind, str) and kind in PRESETS:
        of_kind, known = PRESETS[kind]
        kind, given = of_kind.kind, {**known, **given}
    if not isinstance(kind, str) or kind not in kinds:
        named = (*kinds, *PRESETS) if kinds is MIXERS else kinds
        raise ArchitectureError(f"{place}: unknown kind {kind!r}. {did_you_mean(kind, named)}")
    cls = kinds[kind]
    _refuse_unknown(given, [f.name for f in fields(cls)], place)
    _require(given, [f.name for f in fields(cls) if f.default is MISSING], place)
    if cls is HeadMix:
        if not isinstance(given["parts"], list):
            raise ArchitectureError(f"{place}: parts must be a list of mixers, but got {given['parts']!r}.")
        if isinstance(given.get("scales"), list):
            given["scales"] = tuple(given["scales"])
        given["parts"] = tuple(read_part(part, MIXERS, f"{place}.parts[{i}]") for i, part in enumerate(given["parts"]))
    for f in fields(cls):
        if f.metadata.get("kinds") and given.get(f.name) is not None:
            given[f.name] = read_part(given[f.name], f.metadata["kinds"], f"{place}.{f.name}")
    try:
        return cls(**given)
    except ArchitectureError as error:
        raise ArchitectureError(f"{place}: {error}") from None


def _mapping(data: object, place: str) -> Mapping[str, Any]:
    if not isinstance(data, Mapping):
        raise ArchitectureError(f"{place} must be a mapping of names to values, but got {type(data).__name__}.")
    return data


def _refuse_unknown(given: Mapping[str, Any], known: list[str] | tuple[str, ...], place: str) -> None:
    for key in given:
        if key not in known:
            raise ArchitectureError(f"{place}: unknown key {key!r}. {did_you_mean(key, known)}")


def _require(given: Mapping[str, Any], names: list[str], place: str) -> None:
    for name in names:
        if name not in given:
            raise ArchitectureError(f"{place}: {name} is missing; it has no default.")


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader without aliases, and without keys that silently overwrite one another."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise ArchitectureError("An architecture file may not use YAML aliases (*name); write the block out.")
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        mapping = super().construct_mapping(node, deep)
        if len(mapping) != len(node.value):
            names = [key.value for key, _ in node.value]
            twice = next(name for name in names if names.count(name) > 1)
            raise ArchitectureError(f"{twice} stands twice in one mapping; keep one of them.")
        return mapping


def read_architecture(path: str | Path) -> Architecture:
    """Read an architecture file. Raises ArchitectureError, naming the file, for anything but a valid one."""
    path = Path(path)
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ArchitectureError(f"the file is larger than {MAX_FILE_BYTES:,} bytes.")
        return from_dict(yaml.load(path.read_text(encoding="utf-8"), Loader=_PlainLoader))
    except ArchitectureError as error:
        raise ArchitectureError(f"{path}: {error}") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}" if mark is not None else ""
        problem = getattr(error, "problem", None) or type(error).__name__
        raise ArchitectureError(f"{path}: not a readable architecture file{where} ({problem}).") from None
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ArchitectureError(f"{path}: the architecture file cannot be read ({reason}).") from None


class _CompactDumper(yaml.SafeDumper):
    """Blocks one below the other, the options of a part on one line."""


def _represent_mapping(dumper: yaml.SafeDumper, data: dict[str, Any]) -> yaml.Node:
    node = dumper.represent_mapping("tag:yaml.org,2002:map", data.items())
    node.flow_style = "kind" in data
    return node


_CompactDumper.add_representer(dict, _represent_mapping)


def to_yaml(architecture: Architecture) -> str:
    """The text of the architecture file."""
    return yaml.dump(to_dict(architecture), Dumper=_CompactDumper, sort_keys=False, default_flow_style=False, width=110)


def write_architecture(path: str | Path, architecture: Architecture, *, comment: str = "") -> None:
    """Write an architecture file, with `comment` as leading lines."""
    head = "".join(f"# {line}\n" for line in comment.splitlines())
    Path(path).write_text(head + to_yaml(architecture), encoding="utf-8")
