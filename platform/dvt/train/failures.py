"""What went wrong on a cluster, found in what it wrapped around it, in this project's words."""

from dvt.config import ConfigError
from dvt.data import DataError
from dvt.train.errors import CheckpointError, TrainingError

# Starting the workers again would meet the same error again.
FATAL = (ConfigError, DataError, CheckpointError, TrainingError)


def plain_error(error: Exception) -> Exception:
    """What went wrong in this project's words, or Ray's where it is none of ours."""
    cause, broken_storage = find_error(error, FATAL), find_error(error, (OSError,))
    if cause is not None:
        return cause
    if broken_storage is not None:
        return not_kept(broken_storage)
    return TrainingError(
        f"training stopped after too many failures, the last one being: {_last_line(error)}; "
        f"run the same command again to go on from the last checkpoint"
    )


def told_error(error: Exception) -> str:
    """What went wrong in a task, in one sentence: this project's, or the last line of Ray's."""
    return str(find_error(error, FATAL) or _last_line(error))


def not_kept(error: Exception) -> CheckpointError:
    """The error of a storage that does not take a checkpoint."""
    return CheckpointError(
        f"the run's storage must take its checkpoints, got: {_last_line(error)}; free space or mend it, and run the "
        f"same command again to go on from the last checkpoint"
    )


def find_error(error: BaseException | None, kinds: tuple[type[Exception], ...]) -> Exception | None:
    """The first error of these kinds among what an error of Ray holds."""
    if error is None:
        return None
    if type(error) in kinds:
        return error if isinstance(error, Exception) else None
    inner = [getattr(error, name, None) for name in ("cause", "controller_failure", "_base_exc", "__cause__")]
    inner += list(getattr(error, "worker_failures", {}).values())
    return next((found for each in inner if each is not error and (found := find_error(each, kinds))), None)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
