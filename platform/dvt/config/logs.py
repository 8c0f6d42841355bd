"""Log records of jobs: readable text or one JSON object a line, each telling who wrote it, none telling a secret.

A process says once who it is (`bind`): rank, world size, trial and MLflow run as far as it has them, and the step as it
goes on; every record of the process then carries them, whichever library wrote it. `start_driver` is called as a
command begins, `start_worker` in each Ray worker of the job before anything else runs (`dvt.config.worker_process`).
"""

import json
import logging
import os
import socket
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, TypeVar, cast, get_args

from dvt.config.problems import ConfigError, Problem
from dvt.config.secrets import redacted

T = TypeVar("T")
LogFormat = Literal["text", "json"]
OPTION, VARIABLE = "--log-format", "DVT_LOG_FORMAT"
FIELDS = ("node", "rank", "world_size", "trial", "step", "run_id")  # that a record carries where they are known
_FOLLOWING = ("trial", "run_id")  # those that are true of the processes that a process starts, too
_OURS = "dvt"
_TALKERS = ("alembic", "mlflow", "optuna", "ray")

_known: dict[str, Any] = {"node": socket.gethostname()}
_chosen: LogFormat = "text"
_make_record = logging.getLogRecordFactory()


def bind(**fields: Any) -> None:
    """Say who this process is from now on; None takes a field away.

    Args:
        fields: Some of `FIELDS`. A process holds one worker or one trial, so they are of the process, not of a thread.
    """
    for name, value in fields.items():
        if name not in FIELDS:
            raise TypeError(f"a log field must be one of {', '.join(FIELDS)}, got {name}")
        if value is None:
            _known.pop(name, None)
        else:
            _known[name] = value


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """As `bind`, while the context lasts."""
    before = {name: _known.get(name) for name in fields}
    bind(**fields)
    try:
        yield
    finally:
        bind(**before)


def following() -> dict[str, Any]:
    """What of this process's fields holds for the workers that it starts; they `bind` it."""
    return {name: _known[name] for name in _FOLLOWING if name in _known}


def done_for(fields: Mapping[str, Any], work: Callable[..., T], *args: Any) -> T:
    """What `work` gives, its records with another process's `following` fields; a Ray task."""
    with bound(**fields):
        return work(*args)


def chosen_format() -> LogFormat:
    """How this process writes its records."""
    return _chosen


def take_format(words: list[str]) -> LogFormat:
    """The format that counts: `--log-format`, which is taken out of the words, else DVT_LOG_FORMAT, else text.

    Raises:
        ConfigError: If it is neither `text` nor `json`.
    """
    given, source = os.environ.get(VARIABLE, "").strip() or "text", VARIABLE
    for place, word in enumerate(words):
        name, equals, value = word.partition("=")
        if name == OPTION:
            if not equals and place + 1 < len(words):
                value = words.pop(place + 1)
            del words[place]
            given, source = value, OPTION
            break
    if given not in get_args(LogFormat):
        raise ConfigError([Problem(source, f"must be text or json, got {given!r}")])
    return cast(LogFormat, given)


def start_driver(log_format: LogFormat) -> None:
    """Write this process's records, and the traceback of what nobody caught, to the error stream.

    Text tells warnings only, as progress is printed for who reads along; JSON, for machines, also tells what goes well.
    """
    handler = _start(log_format)
    logging.getLogger().addHandler(handler)
    logging.getLogger(_OURS).setLevel(logging.INFO if log_format == "json" else logging.WARNING)
    sys.excepthook = _tell_crash


def start_worker(log_format: LogFormat) -> None:
    """Write this Ray worker's records to its error stream, which Ray keeps in the session's log folder."""
    handler = _start(log_format)
    logging.getLogger().addHandler(handler)
    # Ray Train 2.60 puts handlers of its own in place of the root's as a training worker begins: ours stay here.
    ours = logging.getLogger(_OURS)
    ours.addHandler(handler)
    ours.propagate = False
    ours.setLevel(logging.INFO)


def _start(log_format: LogFormat) -> "_ErrorStream":
    """Have records made with fields and without secrets; returns the one handler, in place of an earlier one."""
    global _chosen
    _chosen = log_format
    for logger in (logging.getLogger(), logging.getLogger(_OURS)):
        for handler in [each for each in logger.handlers if isinstance(each, _ErrorStream)]:
            logger.removeHandler(handler)
    logging.setLogRecordFactory(_record)
    handler = _ErrorStream()
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    return handler


class _ErrorStream(logging.Handler):
    """Writes to whatever the error stream is by then."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except (OSError, ValueError, TypeError):  # a stream that is closed, arguments that do not fit the message
            self.handleError(record)


def _record(*args: Any, **kwargs: Any) -> logging.LogRecord:
    """A record that knows its process's fields and tells no secret, whichever handler writes it."""
    record = _make_record(*args, **kwargs)
    record.dvt = dict(_known)
    talker = record.name.partition(".")[0]
    if _chosen == "json" and talker in _TALKERS:
        # It writes to the error stream by itself and hands nothing on; it may have been imported a moment ago.
        for handler in logging.getLogger(talker).handlers:
            if not isinstance(handler.formatter, JsonFormatter):
                handler.setFormatter(JsonFormatter())
    try:
        told = record.getMessage()
    except (TypeError, ValueError):  # arguments that do not fit; whoever writes the record tells so
        return record
    clean = redacted(told)
    if clean != told:
        record.msg, record.args = clean, None
    if record.exc_info and record.exc_info[0] is not None:
        record.exc_text = redacted("".join(traceback.format_exception(*record.exc_info)).rstrip())
    return record


class JsonFormatter(logging.Formatter):
    """A record as one JSON object: time, level, logger, the known fields, message, and a traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        """The object on one line."""
        told: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            **getattr(record, "dvt", {}),
            "message": record.getMessage(),
        }
        if record.exc_text:
            told["traceback"] = record.exc_text
        return json.dumps(told, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """A record as a readable line: time, level, logger, message, and the known fields behind it."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, and the lines of a traceback if there is one."""
        time = datetime.fromtimestamp(record.created, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        fields = " ".join(f"{name}={value}" for name, value in getattr(record, "dvt", {}).items())
        line = f"{time} {record.levelname} {record.name}: {record.getMessage()} [{fields}]"
        return f"{line}\n{record.exc_text}" if record.exc_text else line


def _tell_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What nobody caught, without secrets: as a record for machines, as Python tells it for people."""
    if _chosen == "json":
        logging.getLogger(_OURS).critical("the command broke off", exc_info=(kind, error, trace))
    else:
        sys.stderr.write(redacted("".join(traceback.format_exception(kind, error, trace))))
