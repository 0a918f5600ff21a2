"""What a training came to."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """What a run came to. `final_loss` is the mean over the last tenth of `loss_curve`, pairs of (step, loss in nats).

    `steps` and `tokens` count the whole training, `seconds` this call. `notes` say in a sentence each what went wrong
    with the file to resume from.
    """

    steps: int
    tokens: int
    seconds: float
    final_loss: float
    loss_curve: list[tuple[int, float]]
    notes: tuple[str, ...] = ()
