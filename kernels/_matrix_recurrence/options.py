"""What a call of the matrix recurrence may leave out: decay, erasing and bonus, handed from the door as one value."""

from typing import NamedTuple

from torch import Tensor


class Options(NamedTuple):
    """The optional arguments of the door, checked. erase_read and erase_write are its erase=(a, b)."""

    log_decay: Tensor | None = None
    beta: Tensor | None = None
    erase_read: Tensor | None = None
    erase_write: Tensor | None = None
    bonus: Tensor | None = None

    def at(self, token: int) -> "Options":
        """The options of one token of [B, T, ...]; what holds for all tokens stays."""
        log_decay, beta, a, b, bonus = self
        if log_decay is not None and log_decay.ndim > 1:
            log_decay = log_decay[:, token]
        beta, a, b = (None if x is None else x[:, token] for x in (beta, a, b))
        return Options(log_decay, beta, a, b, bonus)
