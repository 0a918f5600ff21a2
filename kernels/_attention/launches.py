"""Which launches a call of attention makes: keys, compile-time arguments, and the configurations worth trying."""

from dataclasses import asdict, dataclass
from functools import cache

import triton

from kernels._attention.launch_tables import COMBINE_WARPS, TABLES, Launch
from kernels.tuned_table import Config, Key
from kernels.tuning import CHOICES, distinct, is_choice, key

PRECISION = "ieee"  # of float32 products; 16-bit types ignore it
LARGEST_SPLITS = 32  # parts that a cache is read in
LARGEST_ROWS = 64  # query heads of a group in one tile of a step
SMALLEST_TILE = 16  # columns of a matrix product

Constants = dict[str, int | bool | str]


@dataclass(frozen=True)
class Form:
    """What of a call changes the compiled code: head sizes of keys and values, bytes of an element, and which options
    are in use. The last ones concern a decode step alone; `rows` are the query heads of a group in one tile."""

    size: int
    value_size: int
    element_bytes: int
    causal: bool = False
    windowed: bool = False
    has_global: bool = False
    softcap: bool = False
    forget: bool = False
    sink: bool = False
    dlse: bool = False
    rows: int = 0
    keep: bool = False
    bias: bool = False
    shared: bool = False
    on_device: bool = False
    listed: bool = False


# The options of a form that each kernel is compiled for; they are part of a key only where they are in use.
OPTIONS = {
    "attention.forward": ("has_global", "softcap", "forget", "sink"),
    "attention.backward_dq": ("has_global", "softcap", "forget", "dlse"),
    "attention.backward_dkv": ("has_global", "softcap", "forget"),
    "attention.step": ("softcap", "sink", "bias", "shared", "on_device", "listed"),
    "attention.combine": (),
}
NAMES = {"has_global": "GLOBAL", "on_device": "LENGTHS"}  # of constants, where they are not the option in capitals


@cache
def key_blocks(size: int) -> tuple[int, int]:
    """The columns of a tile of keys and of its tail: 128 and 64 for 192; one tile where a tail saves nothing."""
    whole = triton.next_power_of_2(size)
    main = whole // 2
    tail = max(SMALLEST_TILE, triton.next_power_of_2(size - main))
    return (main, tail) if main >= SMALLEST_TILE and main + tail < whole else (whole, 0)


@cache
def launch_key(kernel: str, form: Form) -> Key:
    """The key of a launch. `padded` is 0 where the head size is a power of two, 1 where the kernels mask, 2 with a
    tail; `values` 1 where the values have another size, 2 where that is masked."""
    size, value_size = form.size, form.value_size
    flags: dict[str, int] = {}
    if kernel == "attention.step":
        flags |= {"rows": form.rows, "keep": form.keep}
    elif kernel != "attention.combine":
        flags |= {"causal": form.causal, "windowed": form.windowed}
    else:
        size = value_size
    sizes = {"D": size}
    masked = triton.next_power_of_2(size) != size
    flags["padded"] = 2 if key_blocks(size)[1] else int(masked)
    if value_size != size:
        sizes["V"] = value_size
        flags["values"] = 1 + (triton.next_power_of_2(value_size) != value_size)
    flags |= {name: 1 for name in OPTIONS[kernel] if getattr(form, name)}
    return key(kernel, form.element_bytes, sizes, flags)


@cache
def implementation_key(element_bytes: int, size: int, causal: bool, training: bool) -> Key:
    """The key of the choice between ours and PyTorch's attention, for a call that both compute."""
    return key("attention.implementation", element_bytes, {"D": size}, {"causal": causal, "training": training})


def form_of(key: Key) -> Form:
    """A form with this key: a head with a tail is taken as three quarters of its power of two, such as 96 of 128, a
    masked one as seven eighths; what latent attention reads as 576."""
    sizes, flags = dict(key.sizes), dict(key.flags)
    size = {0: sizes["D"], 1: sizes["D"] * 7 // 8, 2: sizes["D"] * 3 // 4}[flags["padded"]]
    if sizes["D"] > 512:
        size = 576
    value_size = size
    if "values" in flags:
        value_size = sizes["V"] if flags["values"] == 1 else sizes["V"] * 7 // 8
    options = {name: bool(flags.get(name, 0)) for name in OPTIONS[key.kernel]}
    known = {name: bool(flags.get(name, 0)) for name in ("causal", "windowed", "keep")}
    return Form(
        size,
        value_size,
        key.element_bytes,
        rows=flags.get("rows", 0),
        **options,
        **known,
    )


def constants(kernel: str, config: Config, form: Form) -> Constants:
    """The compile-time arguments and launch options of a kernel but the combining one."""
    main, tail = key_blocks(form.size)
    made: Constants = {
        "D": form.size,
        "V": form.value_size,
        "BD": main,
        "BT": tail,
        "BV": triton.next_power_of_2(form.value_size),
        "PRECISION": PRECISION,
        **config,
    }
    made |= {NAMES.get(name) or name.upper(): getattr(form, name) for name in OPTIONS[kernel]}
    if kernel == "attention.step":
        return made | {"KEEP": form.keep}
    return made | {"CAUSAL": form.causal, "WINDOWED": form.windowed}


def combine_constants(config: Config, value_size: int, splits: int) -> Constants:
    return {"D": value_size, "BS": splits, "BD": triton.next_power_of_2(value_size), **config}


def rows_of(group: int) -> int:
    """The query heads of a group in one tile, as far as one holds them."""
    return min(max(SMALLEST_TILE, triton.next_power_of_2(group)), LARGEST_ROWS)


@distinct
def launch_candidates(key: Key) -> list[Config]:
    """The launches worth trying for a key, the default first; at most six."""
    if is_choice(key):
        return list(CHOICES.values())
    if key.kernel == "attention.combine":
        return [{"num_warps": warps} for warps in COMBINE_WARPS]
    flags = dict(key.flags)
    candidates: list[Config] = []
    for launch in _table_row(key):
        config = asdict(launch)
        if key.kernel == "attention.step":
            # A bias is a tile of its own beside the scores.
            config["BM"] = min(config["BM"], flags["rows"])
            if "bias" in flags:
                config |= {"BM": min(config["BM"], 32), "BN": min(config["BN"], 32)}
        elif "softcap" in flags and "forget" in flags:
            # Both at once take the registers of a quarter of a tile.
            config |= {"BM": max(config["BM"] // 2, SMALLEST_TILE), "BN": max(config["BN"] // 2, SMALLEST_TILE)}
        elif "forget" in flags and key.kernel == "attention.backward_dq" and launch.BM * launch.BN >= 64 * 128:
            # The gates of a tile and their gradient stand beside four tiles already.
            config["BN"] = max(config["BN"] // 2, SMALLEST_TILE)
        candidates.append(config)
    return candidates


def default_launch(key: Key) -> Config:
    return launch_candidates(key)[0]


def _table_row(key: Key) -> tuple[Launch, ...]:
    """By both head sizes where they differ and that has a row of its own, else by the larger one."""
    sizes, table = dict(key.sizes), TABLES[key.kernel]
    size = sizes["D"]
    value_size = sizes.get("V", size)
    return table.get((size, value_size, key.element_bytes)) or table[max(size, value_size), key.element_bytes]
