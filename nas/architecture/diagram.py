"""An architecture in one short line, and the letters it is made of.

One letter a mixer: A attention, S sliding-window attention, B block-sparse attention, P attention under a fixed
pattern, N native sparse attention, D latent attention, I latent attention to indexed tokens, F forgetting attention,
X differential attention, H hash attention, L gated linear attention, M Mamba-2, m Mamba-1, G gated DeltaNet, C short
convolution, R matrix recurrence, V vector recurrence, 4, 6 and 7 RWKV, s S4D, Y gated slot attention, T TTT-Linear,
W attention in a window and linear attention to all before it, (AM) heads of A and M side by side, 0 none. Behind it the
FFN: nothing for a GLU, u for a plain MLP, e for experts, w for RWKV's, d for one that only some tokens pass (mixture of
depths), - for none.
"""

from nas.architecture.architecture import Architecture, Block
from nas.architecture.ffns import FfnOptions
from nas.architecture.head_mix import HeadMix
from nas.architecture.mixers import Attention, MixerOptions

MIXER_LETTERS = {
    "attention": "A",
    "block_sparse_attention": "B",
    "pattern_attention": "P",
    "native_sparse_attention": "N",
    "latent_attention": "D",
    "indexed_latent_attention": "I",
    "forgetting_attention": "F",
    "differential_attention": "X",
    "hash_attention": "H",
    "gated_linear_attention": "L",
    "mamba2": "M",
    "mamba1": "m",
    "gated_deltanet": "G",
    "short_convolution": "C",
    "matrix_recurrence": "R",
    "vector_recurrence": "V",
    "rwkv4": "4",
    "rwkv6": "6",
    "rwkv7": "7",
    "s4d": "s",
    "gated_slot_attention": "Y",
    "ttt_linear": "T",
    "window_linear_attention": "W",
    "none": "0",
}


FFN_MARKS = {"glu": "", "mlp": "u", "moe": "e", "rwkv_channel_mix": "w", "mixture_of_depths": "d", "none": "-"}


def mixer_letter(mixer: MixerOptions) -> str:
    """The letter of a mixer; the letters of its parts in brackets for head_mix."""
    if isinstance(mixer, HeadMix):
        return f"({''.join(mixer_letter(p) for p in mixer.parts)})"
    if isinstance(mixer, Attention) and mixer.window is not None:
        return "S"
    return MIXER_LETTERS[mixer.kind]


def ffn_letter(ffn: FfnOptions) -> str:
    """The mark of an FFN behind its mixer's letter."""
    return FFN_MARKS[ffn.kind]


def block_letters(block: Block) -> str:
    """Mixer letter and FFN mark of one block."""
    return mixer_letter(block.mixer) + ffn_letter(block.ffn)


def diagram(architecture: Architecture) -> str:
    """The layers from first to last, e.g. `MMA(AM)Ge`."""
    return "".join(block_letters(block) for block in architecture.blocks)
