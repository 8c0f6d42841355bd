"""Programs that take turns on the same cores while all of them are there: who has no turn is stopped and costs nothing.

Turns of seconds tell a small difference on a machine whose speed changes from minute to minute, which runs one after
the other do not.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
Turns = list[tuple[str, float, float]]  # whose it was, when it began and ended by `time.perf_counter`


@contextmanager
def started(command: Sequence[str], env: Mapping[str, str], log: Path) -> Iterator[psutil.Process]:
    """A program, run at the repository's root; it is killed at the end of the context with all that it started."""
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=output, stderr=subprocess.STDOUT)
    root = psutil.Process(process.pid)
    try:
        yield root
    finally:
        stopped = _stop(lambda: family(root), spared=set())
        _send(stopped, signal.SIGKILL)
        process.wait()


def family(root: psutil.Process) -> set[psutil.Process]:
    """A process and all that descend from it; none if it has ended."""
    return {root, *root.children(recursive=True)} if root.is_running() else set()


def take_turns(whose: Mapping[str, Callable[[], set[psutil.Process]]], rounds: int, turn_s: float) -> Turns:
    """Let each have its turn in every round, in one order and then in the other.

    Args:
        whose: The processes that run in a turn, by its name; those of all other turns are stopped.
        rounds: How often each has its turn.
        turn_s: Seconds of a turn.
    """
    turns = []
    for index in range(rounds):
        for name in list(whose) if index % 2 == 0 else reversed(whose):
            mine = whose[name]()
            _stop(lambda: set().union(*(processes() for processes in whose.values())), spared=mine)
            _send(mine, signal.SIGCONT)
            begun = time.perf_counter()
            time.sleep(turn_s)
            turns.append((name, begun, time.perf_counter()))
    return turns


def _stop(found: Callable[[], set[psutil.Process]], spared: set[psutil.Process]) -> set[psutil.Process]:
    """Stop what is found until no more is, as one that is not yet stopped may start another."""
    stopped: set[psutil.Process] = set()
    while more := found() - stopped - spared:
        _send(more, signal.SIGSTOP)
        stopped |= more
    return stopped


def _send(processes: set[psutil.Process], number: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process.pid, number)
