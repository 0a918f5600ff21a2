"""What can go wrong in training and is no user's mistake."""


class NonFiniteLoss(ArithmeticError):
    """The training loss became infinite or not a number."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(f"The training loss was {loss} at step {step}; a lower learning rate may hold.")
        self.step = step
        self.loss = loss
