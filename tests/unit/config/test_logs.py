"""Log records: text and JSON word for word, who they are of, and that no secret passes through any handler."""

import io
import json
import logging
import logging.config
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dvt.config import ConfigError, logs

SECRET = "planted-hush-1"


@pytest.fixture(autouse=True)
def logging_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    root, ours = logging.getLogger(), logging.getLogger("dvt")
    kept = [(each, list(each.handlers), each.level, each.propagate) for each in (root, ours)]
    formats = [(each, each.formatter) for name in logs._TALKERS for each in logging.getLogger(name).handlers]
    factory = logging.getLogRecordFactory()
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(logs, "_known", {"node": "n1"})
    monkeypatch.setattr(logs, "_chosen", "text")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    yield
    logging.setLogRecordFactory(factory)
    for handler, formatter in formats:
        handler.setFormatter(formatter)
    for logger, handlers, level, propagate in kept:
        logger.handlers, logger.level, logger.propagate = handlers, level, propagate
        logger.manager._clear_cache()  # type: ignore[attr-defined]


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().err.splitlines()


def told(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(capsys)]


def test_a_record_in_json_carries_all_that_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    logs.start_worker("json")
    logs.bind(rank=1, world_size=4, trial=7, step=120, run_id="abc")
    logging.getLogger("dvt.data.cache").info("kept %d images", 3)
    (record,) = told(capsys)
    time = record.pop("time")
    assert time[10] == "T"
    assert time.endswith("+00:00")
    assert list(record.items()) == [
        ("level", "INFO"),
        ("logger", "dvt.data.cache"),
        ("node", "n1"),
        ("rank", 1),
        ("world_size", 4),
        ("trial", 7),
        ("step", 120),
        ("run_id", "abc"),
        ("message", "kept 3 images"),
    ]


def test_a_record_in_text_can_be_read(capsys: pytest.CaptureFixture[str]) -> None:
    logs.start_worker("text")
    logs.bind(rank=0, world_size=2, step=5)
    logging.getLogger("dvt.train.loop").info("training goes from step %d to %d", 5, 10)
    (line,) = lines(capsys)
    time, _, rest = line.partition(" ")
    assert (len(time), time[-1]) == (20, "Z")
    assert rest == "INFO dvt.train.loop: training goes from step 5 to 10 [node=n1 rank=0 world_size=2 step=5]"


def test_other_libraries_warnings_are_told_too_and_each_once(capsys: pytest.CaptureFixture[str]) -> None:
    for start in (logs.start_worker, logs.start_worker, logs.start_driver):
        start("json")
        logging.getLogger("other.library").warning("slow")
        logging.getLogger("dvt.x").warning("ours")
        assert [(each["logger"], each["message"]) for each in told(capsys)] == [
            ("other.library", "slow"),
            ("dvt.x", "ours"),
        ]
        logging.getLogger("dvt").propagate = True


def test_libraries_that_write_by_themselves_write_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    stream = io.StringIO()
    talker = logging.getLogger("optuna")
    handler, before = logging.StreamHandler(stream), (talker.propagate, list(talker.handlers))
    talker.propagate, talker.handlers = False, [handler]
    try:
        logs.start_driver("json")
        talker.warning("told by its own handler")
    finally:
        talker.propagate, talker.handlers = before
    assert json.loads(stream.getvalue())["message"] == "told by its own handler"
    assert lines(capsys) == []


def test_ray_train_may_take_the_roots_handlers_away(capsys: pytest.CaptureFixture[str]) -> None:
    logs.start_worker("json")
    logging.config.dictConfig({"version": 1, "disable_existing_loggers": False, "root": {"level": "INFO"}})
    logging.getLogger("dvt.x").info("still here")
    assert [each["message"] for each in told(capsys)] == ["still here"]


def test_a_driver_tells_people_warnings_and_machines_all(capsys: pytest.CaptureFixture[str]) -> None:
    for log_format, wanted in (("text", []), ("json", ["well"])):
        logs.start_driver(log_format)  # type: ignore[arg-type]
        assert logs.chosen_format() == log_format
        logging.getLogger("dvt.x").info("well")
        assert [json.loads(line)["message"] for line in lines(capsys)] == wanted


def test_no_secret_passes_whichever_handler_writes(capsys: pytest.CaptureFixture[str]) -> None:
    logs.start_driver("json")
    stream = io.StringIO()
    others = logging.StreamHandler(stream)  # such as Ray's own
    logger = logging.getLogger("other.library")
    logger.addHandler(others)
    try:
        logger.warning("refused %s at %s", SECRET, "postgresql://ann:pa55w0rd@db/x")
        try:
            raise RuntimeError(f"password={SECRET}")
        except RuntimeError:
            logger.exception("broke with %r", {"aws_secret_access_key": "abcd1234"})
    finally:
        logger.removeHandler(others)
    first, second = told(capsys)
    assert first["message"] == "refused *** at postgresql://***@db/x"
    assert second["message"] == "broke with {'aws_secret_access_key': '***'}"
    assert second["traceback"].splitlines()[-1] == "RuntimeError: password=***"
    written = stream.getvalue()
    assert "refused *** at postgresql://***@db/x" in written
    assert "RuntimeError: password=***" in written
    assert not any(secret in written for secret in (SECRET, "pa55w0rd", "abcd1234"))


def test_arguments_that_do_not_fit_lose_no_other_record(capsys: pytest.CaptureFixture[str]) -> None:
    logs.start_driver("json")
    raised, logging.raiseExceptions = logging.raiseExceptions, False
    try:
        logging.getLogger("dvt.x").warning("%d images", "many")
    finally:
        logging.raiseExceptions = raised
    logging.getLogger("dvt.x").warning("next")
    assert [each["message"] for each in told(capsys)] == ["next"]


def test_fields_hold_while_a_context_lasts() -> None:
    logs.bind(run_id="a")
    with logs.bound(run_id="b", trial=3):
        assert logs.following() == {"trial": 3, "run_id": "b"}
        assert logs.done_for({"trial": 4}, lambda *args: (args, logs.following()), 1, 2) == (
            (1, 2),
            {"trial": 4, "run_id": "b"},
        )
    assert logs.following() == {"run_id": "a"}
    logs.bind(run_id=None)
    assert logs.following() == {}


def test_a_field_that_is_none() -> None:
    with pytest.raises(TypeError) as caught:
        logs.bind(loss=1.0)
    assert str(caught.value) == "a log field must be one of node, rank, world_size, trial, step, run_id, got loss"


@pytest.mark.parametrize(
    ("words", "variable", "log_format", "left"),
    [
        ([], "", "text", []),
        ([], "json", "json", []),
        (["--a", "1", "--log-format", "json", "--b"], "", "json", ["--a", "1", "--b"]),
        (["--log-format=text", "x"], "json", "text", ["x"]),
    ],
)
def test_the_format_that_counts(
    monkeypatch: pytest.MonkeyPatch, words: list[str], variable: str, log_format: str, left: list[str]
) -> None:
    monkeypatch.setenv("DVT_LOG_FORMAT", variable)
    assert logs.take_format(words) == log_format
    assert words == left


@pytest.mark.parametrize(
    ("words", "variable", "sentence"),
    [
        (["--log-format", "xml"], "", "--log-format must be text or json, got 'xml'"),
        (["--log-format"], "", "--log-format must be text or json, got ''"),
        ([], "JSON", "DVT_LOG_FORMAT must be text or json, got 'JSON'"),
    ],
)
def test_a_format_that_is_none(monkeypatch: pytest.MonkeyPatch, words: list[str], variable: str, sentence: str) -> None:
    monkeypatch.setenv("DVT_LOG_FORMAT", variable)
    with pytest.raises(ConfigError) as caught:
        logs.take_format(words)
    assert str(caught.value) == sentence


CRASH = """
import os
from dvt.config import logs
logs.start_driver({log_format!r})
raise ValueError("at s3://KEY:SECRETKEY@bucket, " + os.environ["MLFLOW_TRACKING_PASSWORD"])
"""


@pytest.mark.parametrize("log_format", ["text", "json"])
def test_what_nobody_caught_tells_no_secret(log_format: str) -> None:
    env = {"PYTHONPATH": str(Path(logs.__file__).parents[2]), "MLFLOW_TRACKING_PASSWORD": SECRET}
    command = [sys.executable, "-c", CRASH.format(log_format=log_format)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    trace = json.loads(done.stderr)["traceback"] if log_format == "json" else done.stderr
    assert trace.strip().splitlines()[-1] == "ValueError: at s3://***@bucket, ***"


def test_a_library_that_is_imported_later_writes_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    """As Optuna and MLflow do: a handler of their own, and nothing handed on."""
    logs.start_worker("json")
    logs.bind(rank=3, trial=7)
    logger = logging.getLogger("optuna")
    before = list(logger.handlers), logger.propagate
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("[%(levelname)s] %(message)s"))
    logger.handlers, logger.propagate = [handler], False
    try:
        logging.getLogger("optuna.study").warning("a trial was kept")
    finally:
        logger.handlers, logger.propagate = before
    (record,) = told(capsys)
    assert (record["message"], record["rank"], record["trial"]) == ("a trial was kept", 3, 7)
