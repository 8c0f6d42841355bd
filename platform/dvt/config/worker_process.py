"""What Ray calls in each worker process of a job before anything else runs there."""

import ctypes

from dvt.config.logs import LogFormat, start_worker


def worker_hook(log_format: LogFormat) -> str:
    """What Ray is to call, as an import path: the worker's records are written so, and it ends when it is told to."""
    start = start_json if log_format == "json" else start_text
    return f"{start.__module__}.{start.__name__}"


def start_text() -> None:
    """As `start_json`, with records in text."""
    _start("text")


def start_json() -> None:
    """Begin a worker whose records are JSON."""
    _start("json")


def _start(log_format: LogFormat) -> None:
    start_worker(log_format)
    # Once Python is done, leave by the status it ends with and skip Ray's destructors: those of 2.60 now and then wait
    # for a lock that they hold themselves (an actor's last news are still to be published), and such a worker stays for
    # good, of a local run and on a cluster alike. What has to be told to Ray is told by then.
    libc = ctypes.CDLL(None)
    if hasattr(libc, "on_exit"):  # glibc
        libc.on_exit(libc._exit, None)
