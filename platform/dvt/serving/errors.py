"""What can go wrong while a model is at work, told in one sentence."""


class BatchPredictionError(RuntimeError):
    """A batch job cannot go on."""


class ServingError(RuntimeError):
    """An application cannot be deployed."""
