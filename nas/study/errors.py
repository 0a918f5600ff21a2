"""What a user is told when a study cannot be opened or go on; one kind, whatever the cause."""


class StudyError(RuntimeError):
    """The study cannot be opened or go on. The message is one sentence for a user."""


class StorageLost(StudyError):
    """The study's storage could not be used for longer than a worker waits."""
