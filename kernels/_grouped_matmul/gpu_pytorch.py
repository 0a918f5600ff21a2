"""The grouped product by the kernels of PyTorch, for where the table of a GPU says that these are faster.

They are asked for no more than they compute on the device alone; for other types and GPUs PyTorch reads the sizes on
the host, which no CUDA graph can record. What they leave unwritten, rows of no group and the gradients of groups
without rows, is filled with zeros here.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

GPUS = (9, 10)  # major numbers of compute capability


def takes(x: Tensor) -> bool:
    """Whether rows of this type can be asked about on this device; the widths must be multiples of 16 besides."""
    if x.shape[0] == 0:
        return False
    if x.is_cuda:
        return x.dtype == torch.bfloat16 and torch.cuda.get_device_capability(x.device)[0] in GPUS
    return x.dtype == torch.float16  # in the interpreter, where the tuner learns what a problem asks


def rows_of_groups(x: Tensor, w: Tensor, row_ends: Tensor) -> Tensor:
    """out[row] = x[row] @ w[group of row]; `row_ends` as in `gpu.py`, the rows of no group last."""
    ends = row_ends[:-1].to(torch.int32)
    out = F.grouped_mm(x.contiguous(), w if 1 in w.stride()[1:] else w.contiguous(), offs=ends)
    beyond = torch.arange(x.shape[0], device=x.device) >= ends[-1]
    return out.masked_fill_(beyond.unsqueeze(1), 0.0)


def matrices_of_groups(x: Tensor, grad: Tensor, row_ends: Tensor) -> Tensor:
    """out[group] = x[rows of group]ᵀ @ grad[rows of group]."""
    ends = row_ends[:-1].to(torch.int32)
    out = F.grouped_mm(x.contiguous().T, grad.contiguous(), offs=ends)
    empty = torch.diff(ends, prepend=ends.new_zeros(1)) == 0
    return out.masked_fill_(empty.view(-1, 1, 1), 0.0)
