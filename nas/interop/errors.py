"""The error and the warning of this room."""


class InteropError(ValueError):
    """A file of somebody else's cannot be understood as an architecture of ours. The message is one sentence."""


class ReadByNames(UserWarning):
    """There was no table for a type of model, and names had to tell what it is."""

    def __init__(self, model_type: str) -> None:
        super().__init__(
            f"There is no table for model_type {model_type!r}: it was read as a decoder like Llama, by the names of "
            "its fields and tensors. What these do not tell, such as which channels are rotated together, was taken to "
            "be as in Llama; compare logits before you rely on it."
        )
