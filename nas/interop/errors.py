"""The one error of this room."""


class InteropError(ValueError):
    """A file of somebody else's cannot be understood as an architecture of ours. The message is one sentence."""
