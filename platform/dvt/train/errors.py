"""What can end a training run besides what a person typed: each message is one sentence that says what to do."""


class CheckpointError(RuntimeError):
    """A checkpoint folder cannot be read or written; its message names the file."""


class Terminated(KeyboardInterrupt):
    """The process was told to end, by SIGTERM; what it is to go on from is kept."""


class TrainingError(RuntimeError):
    """Training cannot go on, and starting the same step again would not help."""
