"""Gives back the memory of a training that failed, so that the next one finds it."""

import gc
import traceback

import torch


def release(error: BaseException) -> None:
    """Free what the frames that `error` left hold, and what lies unused in the caches of the GPU.

    The traceback keeps these frames alive as long as the error, and they hold the model, its gradients and its
    activations: out of memory once would be out of memory for good. Frames that still run keep what they have.
    """
    seen: set[int] = set()
    chain: list[BaseException | None] = [error]
    while chain:
        link = chain.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            traceback.clear_frames(link.__traceback__)
            chain += [link.__cause__, link.__context__]
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
