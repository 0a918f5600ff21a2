"""What a sampler's configuration can get wrong."""


class SamplerError(ValueError):
    """A sampler or a prior that cannot be used. The message is one sentence for a user."""
