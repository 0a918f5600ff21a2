"""The launches of the normalisations that are compiled ahead of time."""

from kernels._rms_norm.gpu_kernels import backward_kernel, forward_kernel
from kernels._rms_norm.gpu_wide import wide_backward_kernel, wide_forward_kernel, wide_weight_kernel
from kernels._rms_norm.launches import LARGEST_GATED_TILE, LARGEST_TILE, default_launch, launch_key
from kernels.ahead_of_time import Case
from kernels.tuned_table import Config, Key

KERNELS = {
    "forward": forward_kernel,
    "backward": backward_kernel,
    "wide_forward": wide_forward_kernel,
    "wide_backward": wide_backward_kernel,
    "wide_weight": wide_weight_kernel,
}


def ahead_of_time_cases() -> list[Case]:
    """The default launches of plain norms from heads to wide rows, of sums, of gates in both orders, and of what takes
    less than those: a sigmoid for a gate, and no weight."""
    keys = []
    for element_bytes, size, weight in ((2, 128, 1), (4, 4096, 1), (2, LARGEST_TILE, 1), (2, LARGEST_TILE, 0)):
        plain = {"weight": weight, "gate": 0, "first": 0}
        keys.append(launch_key("forward", element_bytes, size, residual=weight, **plain))
        keys.append(launch_key("backward", element_bytes, size, total=weight, **plain))
    silu, sigmoid = 1, 2  # as in GATES of gpu.py
    for size, gate, first, weight in (
        (128, silu, 0, 1), (LARGEST_TILE, silu, 0, 1), (LARGEST_GATED_TILE, silu, 1, 1),
        (128, sigmoid, 0, 1), (LARGEST_GATED_TILE, sigmoid, 1, 0),
    ):  # fmt: skip
        gated = {"weight": weight, "gate": gate, "first": first}
        keys.append(launch_key("forward", 2, size, residual=0, **gated))
        keys.append(launch_key("backward", 2, size, total=0, **gated))
    for gate, first, weight in ((0, 0, 1), (silu, 1, 1), (sigmoid, 0, 0)):
        flags = {"gate": gate, "first": first}
        keys.append(launch_key("wide_forward", 2, 0, residual=gate == 0, weight=weight, **flags))
        keys.append(launch_key("wide_backward", 2, 0, total=gate == 0, weight=weight, **flags))
        keys.append(launch_key("wide_weight", 2, 0, **flags))
    return [launch_case(key, default_launch(key)) for key in keys]


def launch_case(key: Key, config: Config) -> Case:
    """One launch of one key; 16-bit types stand for each other as bfloat16."""
    name = key.kernel.removeprefix("rms_norm.")
    kernel, flags, element = KERNELS[name], dict(key.flags), {2: "*bf16", 4: "*fp32"}[key.element_bytes]
    constants: dict[str, object] = {"GATE": flags["gate"], "FIRST": flags["first"] > 0}
    if not flags["gate"]:
        constants |= {"gate": None, "grad_gate": None}
    if not flags.get("weight", 1):
        constants |= {"weight": None, "grad_weight": None}
    if not flags.get("residual"):
        constants |= {"residual": None, "total": None}
    if not flags.get("total"):
        constants |= {"grad_total": None}
    constants |= {name: size for name, size in config.items() if name.startswith("BLOCK")}
    tensors = ("x", "residual", "gate", "weight", "y", "total", "grad", "grad_total", "grad_x", "grad_gate")
    types = dict.fromkeys(tensors, element) | dict.fromkeys(("inverse", "grad_weight"), "*fp32")
    types |= {"eps": "fp32", "scale": "fp32"}
    given = {argument: constants[argument] for argument in kernel.arg_names if argument in constants}
    signature = {argument: types.get(argument, "i32") for argument in kernel.arg_names if argument not in given}
    wide = tuple(name for name, kind in signature.items() if kind == "i32" and name != "N")
    return Case(key.label, kernel, signature, given, {"num_warps": config["num_warps"]}, wide)
