"""Architectures as plain data: options of every kind, YAML form, canonical id, resizing, diagrams. Free of torch."""

from nas.architecture.architecture import Architecture as Architecture
from nas.architecture.architecture import Block as Block
from nas.architecture.errors import ArchitectureError as ArchitectureError
from nas.architecture.errors import did_you_mean as did_you_mean
from nas.architecture.ffns import FFNS as FFNS
from nas.architecture.ffns import FfnOptions as FfnOptions
from nas.architecture.ffns import Glu as Glu
from nas.architecture.ffns import Moe as Moe
from nas.architecture.ffns import NoFfn as NoFfn
from nas.architecture.mixers import MIXERS as MIXERS
from nas.architecture.mixers import Attention as Attention
from nas.architecture.mixers import BlockSparseAttention as BlockSparseAttention
from nas.architecture.mixers import GatedDeltaNet as GatedDeltaNet
from nas.architecture.mixers import GatedLinearAttention as GatedLinearAttention
from nas.architecture.mixers import HeadMix as HeadMix
from nas.architecture.mixers import Mamba1 as Mamba1
from nas.architecture.mixers import Mamba2 as Mamba2
from nas.architecture.mixers import MixerOptions as MixerOptions
from nas.architecture.mixers import NoMixer as NoMixer
