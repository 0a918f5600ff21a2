"""The program that each rank of a training on several devices runs: python -m nas.training.ranks FOLDER.

Lightning starts the other ranks by running the command of the first again, so the command must be this one and not the
search. What is to be trained lies in the folder, and the first rank leaves the result there.
"""

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import torch

from nas.training.several import ERROR, PROGRESS, REQUEST, RESULT


def main(folder: Path) -> None:
    from nas.training.fit import fit_here

    request = torch.load(folder / REQUEST, weights_only=False)
    is_first = os.environ.get("LOCAL_RANK", "0") == "0"

    def on_step(step: int, steps: int, loss: float) -> None:
        if is_first:
            print(PROGRESS + json.dumps([step, steps, loss]), flush=True)

    try:
        model = request.pop("model")
        result, weights = fit_here(model, **request, on_step=on_step)
    except Exception as error:
        leave_reason(folder, error)
        raise
    if is_first:
        torch.save({"result": result, "weights": weights}, folder / RESULT)


def leave_reason(folder: Path, error: Exception) -> None:
    """Write what broke for who started the ranks, whole or not at all. The first reason stays: what breaks on the other
    ranks is often that this one is gone."""
    facts = {"kind": type(error).__name__, "text": str(error), "step": getattr(error, "step", None)}
    own = folder / f"{os.getpid()}.{ERROR}"
    own.write_text(json.dumps(facts | {"loss": getattr(error, "loss", None)}), encoding="utf-8")
    with suppress(FileExistsError):
        (folder / ERROR).hardlink_to(own)
    own.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
