"""How a command ends when it cannot go on: one sentence a problem on the error stream, and an exit code.

2 is for what the person typed, 130 for Ctrl-C, 75 for SIGTERM, after which the same command goes on (`EX_TEMPFAIL` of
sysexits.h: whoever started it is invited to try again), 1 for everything else.
"""

import sys
from collections.abc import Callable, Sequence

from dvt.cli.cluster import ClusterError
from dvt.config import ConfigError, Problem
from dvt.config.logs import start_driver, take_format
from dvt.config.secrets import has_credentials, redacted
from dvt.data import DataError
from dvt.models import WeightsError
from dvt.serving.errors import BatchPredictionError, ServingError
from dvt.serving.exported import ExportError
from dvt.tracking import TrackingError
from dvt.train.errors import CheckpointError, Terminated, TrainingError

TYPED_WRONG, FAILED, INTERRUPTED, TERMINATED = 2, 1, 130, 75
_VARIABLES = {"tracking_uri": "MLFLOW_TRACKING_URI", "study_uri": "DVT_STUDY_URI"}  # where credentials may stand
_ELSEWHERE = "the environment, as AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"


def exit_code_of(command: Callable[[list[str]], int], words: Sequence[str]) -> int:
    """Run a command and tell in a sentence what ended it.

    Args:
        command: Told what was typed but `--log-format`, which is the same for all; returns the exit code.
        words: What was typed.
    """
    try:
        _refuse_credentials(words)
        left = list(words)
        start_driver(take_format(left))
        return command(left)
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
    except Terminated:
        _tell("ended by SIGTERM, resumable; run the same command again to go on from the last checkpoint")
        return TERMINATED
    except KeyboardInterrupt:
        _tell("interrupted; run the same command again to go on from the last checkpoint")
        return INTERRUPTED


def _refuse_credentials(words: Sequence[str]) -> None:
    """Refuse addresses with passwords on the command line: everyone on the machine sees it, and Ray lists it."""
    told: list[Problem] = []
    for before, word in zip(("", *words), words, strict=False):
        name, equals, value = word.partition("=") if word.startswith("--") else (before, "=", word)
        if equals and has_credentials(value):
            variable = next((each for key, each in _VARIABLES.items() if key in name.replace("-", "_")), _ELSEWHERE)
            rule = f"must carry no credentials on a command line, which others can see; give them by {variable}"
            told.append(Problem(name if name.startswith("-") else "an address", rule))
    if told:
        raise ConfigError(told)


def _tell(sentence: str) -> None:
    print(f"dvt: {redacted(sentence)}", file=sys.stderr)
