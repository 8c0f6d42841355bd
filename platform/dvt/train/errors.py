"""What can end a training run besides what a person typed: each message is one sentence that says what to do."""


class CheckpointError(RuntimeError):
    """A checkpoint folder cannot be read or written; its message names the file."""


class TrainingError(RuntimeError):
    """Training cannot go on, and starting the same step again would not help."""
