"""Where MLflow is: which tracking address counts, and whether it can be used, told before any work begins.

Without configuration it is a SQLite file beside the runs. MLflow's own client retries a silent server for minutes;
`check_tracking` tells within seconds.
"""

import logging
import os
import re
import socket
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from requests import Response
from sqlalchemy.engine import make_url

from dvt.config import ConfigError, Problem
from dvt.tracking.errors import TrackingError, one_sentence, without_credentials

FIELD = "run.tracking_uri"
VARIABLE = "MLFLOW_TRACKING_URI"
_CREDENTIALS = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
_EITHER = f"{FIELD} (or {VARIABLE})"
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
_SCHEMES = ("http", "https", "sqlite", *_DATABASE_PORTS)
_ADVICE = "start the server, correct the address, or leave both out to use a SQLite file beside the runs"
_SQLITE_FILE = re.compile(r"^sqlite:///(?P<path>[^?]+)(?P<query>\?.*)?$")


def resolve_tracking_uri(explicit: str | None, storage_path: str, env: Mapping[str, str] | None = None) -> str:
    """The tracking address that counts: the given one, else MLFLOW_TRACKING_URI, else a SQLite file beside the runs.

    Nothing is created and nobody is asked; `check_tracking` does both.

    Args:
        explicit: `run.tracking_uri`; None is not given.
        storage_path: `run.storage_path`. Its `mlflow.db` is the SQLite file, its `mlartifacts` holds the artifacts.
            Where it is no local folder (`s3://...`), the file is `dvt/mlflow.db` in the user's data folder
            (`$XDG_DATA_HOME`, else `~/.local/share`), because a database needs a disk.
        env: The environment; None is this process's.

    Returns:
        An address that means the same in every working directory: relative SQLite paths are made absolute.

    Raises:
        ConfigError: If the address is of a kind that MLflow's client cannot use, or would be sent another server's
            credentials.
    """
    env = os.environ if env is None else env
    given = [(FIELD, explicit), (VARIABLE, env.get(VARIABLE, "").strip() or None)]
    for name, uri in given:
        if uri is not None:
            rule = _scheme_problem(uri) or _stranger_problem(uri, env)
            if rule is not None:
                raise ConfigError([Problem(name, rule)])
            return _absolute(uri)
    return f"sqlite:///{_default_folder(storage_path, env) / 'mlflow.db'}"


def _stranger_problem(uri: str, env: Mapping[str, str]) -> str | None:
    """Why credentials of the environment must not go to an address, such as one of a stranger's recipe."""
    known = env.get(VARIABLE, "").strip()
    if not known or not any(env.get(name) for name in _CREDENTIALS) or not uri.startswith(("http://", "https://")):
        return None
    if urlsplit(without_credentials(uri))[:2] == urlsplit(without_credentials(known))[:2]:
        return None
    rule = f"must name the server of {VARIABLE}, whom the credentials in the environment are for"
    return f"{rule}, got {without_credentials(uri)}; set {VARIABLE} to it if they are for this one"


def tracking_address(asked: str | None) -> str:
    """The tracking address that counts where `--tracking-uri` is `asked`.

    Raises:
        ConfigError: If it is of a kind that MLflow's client cannot use.
    """
    try:
        return resolve_tracking_uri(asked, "runs")
    except ConfigError as error:  # speaks of a recipe's field; here it is a flag
        if asked is None:
            raise
        raise ConfigError(replace(problem, path="--tracking-uri") for problem in error.problems) from error


def check_tracking(uri: str, timeout_s: float = 10) -> None:
    """Make sure that MLflow can be used; creates folders and schema of a SQLite file, so do it before workers start.

    Args:
        uri: What `resolve_tracking_uri` gave.
        timeout_s: Seconds that a server may take for one answer.

    Raises:
        TrackingError: If a server does not answer in time, refuses, or is not MLflow; if a SQLite file is not writable.
    """
    rule = _scheme_problem(uri)
    if rule is not None:
        raise TrackingError(f"{_EITHER} {rule}")
    scheme = urlsplit(uri).scheme.partition("+")[0]
    if scheme in ("http", "https"):
        _check_server(uri, timeout_s)
    elif scheme == "sqlite":
        _check_sqlite(uri)
    else:
        _check_database(uri, _DATABASE_PORTS[scheme], timeout_s)


def sqlite_path(uri: str) -> Path | None:
    """The file behind a SQLite address; None for every other address."""
    match = _SQLITE_FILE.match(uri)
    return Path(match["path"]) if match else None


def artifact_folder(uri: str) -> Path | None:
    """Where a SQLite store of ours keeps artifacts: `mlartifacts` beside its file; None where a server decides."""
    path = sqlite_path(uri)
    return None if path is None else path.parent / "mlartifacts"


@contextmanager
def quiet_schema_creation() -> Iterator[None]:
    """Keep alembic's hundred lines about a new SQLite file off the terminal."""
    loggers = [logging.getLogger(name) for name in ("alembic", "mlflow.store.db.utils")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _scheme_problem(uri: str) -> str | None:
    scheme, colon, _ = uri.partition("://")
    if not colon or scheme.partition("+")[0] not in _SCHEMES:
        return f"must be an address, got {without_credentials(uri)!r}; choose from {', '.join(_SCHEMES)}://..."
    if scheme == "sqlite" and sqlite_path(uri) is None:
        return f"must name the SQLite file, got {uri!r}; write sqlite:////absolute/path/mlflow.db"
    if scheme != "sqlite" and not urlsplit(uri).hostname:
        return f"must name a host, got {without_credentials(uri)!r}; write {scheme}://HOST:PORT"
    return None


def _absolute(uri: str) -> str:
    match = _SQLITE_FILE.match(uri)
    if match is None:
        return uri.rstrip("/")
    return f"sqlite:///{Path(match['path']).expanduser().absolute()}{match['query'] or ''}"


def _default_folder(storage_path: str, env: Mapping[str, str]) -> Path:
    if "://" not in storage_path:
        return Path(storage_path).expanduser().absolute()
    if storage_path.startswith("file://"):
        return Path(unquote(urlsplit(storage_path).path))
    data_home = env.get("XDG_DATA_HOME", "")
    return (Path(data_home) if Path(data_home).is_absolute() else Path.home() / ".local" / "share") / "dvt"


def _unusable(uri: str, what: str, got: str, advice: str = _ADVICE) -> TrackingError:
    return TrackingError(f"{_EITHER} must be {what}, got {without_credentials(uri)}, {got}; {advice}")


def _check_server(uri: str, timeout_s: float) -> None:
    health = _get(uri, "/health", timeout_s)
    if health.status_code != 200 or health.text.strip() != "OK":
        raise _unusable(uri, "an MLflow server", f"which answers /health with HTTP {health.status_code}, not as MLflow")
    answer = _get(uri, "/api/2.0/mlflow/experiments/search?max_results=1", timeout_s)
    if answer.status_code in (401, 403):
        advice = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        raise _unusable(
            uri, "an MLflow server that lets you in", f"which refuses access (HTTP {answer.status_code})", advice
        )
    if answer.status_code != 200 or not answer.headers.get("content-type", "").startswith("application/json"):
        got = f"which answers a search for experiments with HTTP {answer.status_code}, not as MLflow"
        raise _unusable(uri, "an MLflow server", got)


def _get(uri: str, endpoint: str, timeout_s: float) -> Response:
    """One request as MLflow's client makes it (credentials, certificates, proxies), but without its retries."""
    try:
        response: Response = http_request(
            get_default_host_creds(uri), endpoint, "GET", max_retries=0, timeout=timeout_s, raise_on_status=False
        )
    except MlflowException as error:
        raise _unusable(uri, "an MLflow server that answers", _why_unreachable(error, timeout_s)) from error
    return response


def _why_unreachable(error: MlflowException, timeout_s: float) -> str:
    told = str(error).lower()  # MLflow 3.17 hands on the text alone of what its HTTP client raised
    if "timed out" in told:
        return f"which did not answer within {timeout_s:g} s"
    known = {
        "connection refused": "connection refused",
        "name or service not known": "unknown host",
        "failed to resolve": "unknown host",
        "certificate": "its certificate is not trusted",
    }
    reason = next((words for key, words in known.items() if key in told), "the connection broke")
    return f"which cannot be reached ({reason})"


def _check_sqlite(uri: str) -> None:
    path, folder = sqlite_path(uri), artifact_folder(uri)
    if path is None or folder is None:  # not reached: the scheme was checked
        raise TrackingError(f"{_EITHER} must name the SQLite file, got {uri!r}")
    advice = "free or create it, or name another"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(path, timeout=10)) as database:
            database.execute("BEGIN IMMEDIATE")  # the lock of a writer; nothing is written
            database.rollback()
    except OSError as error:
        raise _unusable(uri, "a SQLite file that can be written", f"which cannot ({error.strerror})", advice) from error
    except sqlite3.Error as error:
        raise _unusable(uri, "a SQLite file that can be written", f"which cannot ({error})", advice) from error
    with one_sentence("open its database", uri), quiet_schema_creation():
        MlflowClient(tracking_uri=uri).search_experiments(max_results=1)


def _check_database(uri: str, default_port: int, timeout_s: float) -> None:
    place = make_url(uri)
    try:
        socket.create_connection((place.host, place.port or default_port), timeout=timeout_s).close()
    except TimeoutError as error:
        got = f"which did not answer within {timeout_s:g} s"
        raise _unusable(uri, "a database that answers", got) from error
    except OSError as error:
        got = f"which cannot be reached ({error.strerror or error})"
        raise _unusable(uri, "a database that answers", got) from error
    try:
        with one_sentence("open its database", uri), quiet_schema_creation():
            MlflowClient(tracking_uri=uri).search_experiments(max_results=1)
    except ImportError as error:
        advice = "install dvt-platform[server], and write postgresql+psycopg:// for PostgreSQL"
        raise _unusable(uri, "a database whose driver is installed", f"which lacks it ({error})", advice) from error
