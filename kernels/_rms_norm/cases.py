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
    """The default launches of plain norms from heads to wide rows, of sums, and of gates in both orders."""
    keys = []
    for element_bytes, size in ((2, 128), (4, 4096), (2, LARGEST_TILE)):
        plain = {"weight": 1, "gate": 0, "first": 0}
        keys.append(launch_key("forward", element_bytes, size, residual=1, **plain))
        keys.append(launch_key("backward", element_bytes, size, total=1, **plain))
    for size, first in ((128, 0), (LARGEST_TILE, 0), (LARGEST_GATED_TILE, 1)):
        gated = {"weight": 1, "gate": 1, "first": first}
        keys.append(launch_key("forward", 2, size, residual=0, **gated))
        keys.append(launch_key("backward", 2, size, total=0, **gated))
    keys.append(launch_key("wide_forward", 2, 0, residual=1, weight=1, gate=0, first=0))
    keys.append(launch_key("wide_backward", 2, 0, total=0, weight=1, gate=1, first=1))
    keys.append(launch_key("wide_weight", 2, 0, gate=1, first=1))
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
