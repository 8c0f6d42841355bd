"""Where metrics wait for MLflow: a small SQLite file on this node, shared by all processes that report to one address.

What is in it survives the death of every process, not that of the node: writes are not forced to the disk one by one.
The file lies in the temporary folder, which is the node's own where a home folder is often a network disk, on which
SQLite cannot lock; `DVT_SPOOL` names another folder. It holds numbers, their names and runs' ids, no credentials.
"""

import hashlib
import json
import os
import sqlite3
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvt.tracking.errors import TrackingError, without_credentials

VARIABLE = "DVT_SPOOL"
_BUSY_S = 30.0  # how long to wait for another process's write, which takes microseconds
_TABLE = (
    "CREATE TABLE IF NOT EXISTS waiting (id INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL, "
    "step INTEGER NOT NULL, time_ms INTEGER NOT NULL, metrics TEXT NOT NULL)"
)


@dataclass(frozen=True)
class Waiting:
    """What one call reported."""

    key: int  # orders calls, and names this one
    step: int
    time_ms: int  # when it was reported, since 1970; kept, so that MLflow takes it once however often it is sent
    metrics: Mapping[str, float]


class Spool:
    """The metrics of a run that MLflow does not have yet; any thread may use it.

    Args:
        tracking_uri: MLflow's address; one file for each.
        run_id: The run.

    Raises:
        TrackingError: If the file cannot be written, as all methods do.
    """

    def __init__(self, tracking_uri: str, run_id: str) -> None:
        self.run_id = run_id
        self._lock = threading.Lock()
        name = hashlib.sha256(without_credentials(tracking_uri).encode()).hexdigest()[:16]
        self.path = spool_folder() / f"{name}.db"
        try:
            self._database = sqlite3.connect(self.path, timeout=_BUSY_S, check_same_thread=False, isolation_level=None)
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            self._database.execute(_TABLE)
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def put(self, metrics: Mapping[str, float], step: int, time_ms: int) -> None:
        """Keep what was reported at a step."""
        row = (self.run_id, step, time_ms, json.dumps({name: float(value) for name, value in metrics.items()}))
        self._execute("INSERT INTO waiting (run_id, step, time_ms, metrics) VALUES (?, ?, ?, ?)", row)

    def oldest(self, count: int) -> list[Waiting]:
        """At most so many of the run's calls, in the order that they were made in."""
        found = self._execute(
            "SELECT id, step, time_ms, metrics FROM waiting WHERE run_id = ? ORDER BY id LIMIT ?", (self.run_id, count)
        )
        return [Waiting(key, step, time_ms, json.loads(text)) for key, step, time_ms, text in found]

    def forget(self, sent: Sequence[Waiting]) -> None:
        """Remove what MLflow has."""
        if sent:
            keys = [each.key for each in sent]
            marks = ", ".join("?" * len(keys))
            self._execute(f"DELETE FROM waiting WHERE id IN ({marks})", keys)

    def count(self) -> int:
        """How many of the run's calls wait."""
        found = self._execute("SELECT count(*) FROM waiting WHERE run_id = ?", (self.run_id,))
        return int(found[0][0])

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._database.close()

    def _execute(self, statement: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                return self._database.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _unusable(self, error: sqlite3.Error) -> TrackingError:
        return TrackingError(
            f"{self.path}, where metrics wait for MLflow, must be a file that can be written, got one that cannot "
            f"({error}); free or mend it, or name another folder by {VARIABLE}"
        )


def spool_folder() -> Path:
    """The folder of this node's spool files, for their owner alone.

    Raises:
        TrackingError: If it cannot be made, or is another user's.
    """
    named = os.environ.get(VARIABLE)
    folder = Path(named) if named else Path(tempfile.gettempdir(), f"dvt-spool-{os.getuid()}")
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = folder.stat().st_uid
    except OSError as error:
        raise TrackingError(
            f"{folder}, where metrics wait for MLflow, must be a folder that can be written, got {error.strerror}; "
            f"name another by {VARIABLE}"
        ) from error
    if owner != os.getuid():
        raise TrackingError(
            f"{folder}, where metrics wait for MLflow, must be this user's, got one of user {owner}; "
            f"name another by {VARIABLE}"
        )
    return folder
