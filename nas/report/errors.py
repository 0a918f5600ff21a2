"""The one error of this room."""


class ReportError(ValueError):
    """A report cannot be written, or tracking is configured wrongly. The message is one sentence for a user."""
