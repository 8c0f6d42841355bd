"""How a command ends when it cannot go on: one sentence a problem on the error stream, and an exit code.

2 is for what the person typed, 1 for everything else, 130 for Ctrl-C.
"""

import sys
from collections.abc import Callable

from dvt.cli.cluster import ClusterError
from dvt.config import ConfigError
from dvt.data import DataError
from dvt.models import WeightsError
from dvt.serving.errors import BatchPredictionError, ServingError
from dvt.serving.exported import ExportError
from dvt.tracking import TrackingError
from dvt.train.errors import CheckpointError, TrainingError

TYPED_WRONG, FAILED, INTERRUPTED = 2, 1, 130


def exit_code_of(command: Callable[[], int]) -> int:
    """Run a command and tell in a sentence what ended it."""
    try:
        return command()
    except ConfigError as error:
        for problem in error.problems:
            _tell(str(problem))
        return TYPED_WRONG
    except (
        BatchPredictionError,
        CheckpointError,
        ClusterError,
        DataError,
        ExportError,
        ServingError,
        TrackingError,
        TrainingError,
        WeightsError,
    ) as error:
        _tell(str(error))
        return FAILED
    except BrokenPipeError:  # whoever read the output has seen enough
        sys.stderr.close()
        return FAILED
    except OSError as error:
        place, told = error.filename or "a file", error.strerror or error
        _tell(f"{place} must be readable and writable, got: {told}; mend it and run the same command again")
        return FAILED
    except KeyboardInterrupt:
        _tell("interrupted; run the same command again to go on from the last checkpoint")
        return INTERRUPTED


def _tell(sentence: str) -> None:
    print(f"dvt: {sentence}", file=sys.stderr)
