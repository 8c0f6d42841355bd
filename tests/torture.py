"""Kills a training process at random moments and loads what it left: `python -m tests.torture [--kills 50] [--seed 0]`.

After each SIGKILL every checkpoint in the run's folder must be whole, and no older than before. In the end the run must
come to the weights, averages and moments of the run that nothing disturbed, bit for bit.
"""

import argparse
import random
import sys
import tempfile
import time
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from fsspec.implementations.local import LocalFileSystem

from dvt.train.checkpoint import EMA, MODEL, load_checkpoint, load_model
from dvt.train.folder_reporter import FolderReporter, last_checkpoint
from dvt.train.loop import train_cascade
from dvt.train.storage import RunFolder
from tests.resume.runs import RECIPE, STEPS_PER_EPOCH, open_images
from tests.unit.train.tiny import WORKER, change, is_equal

CHECKPOINT_EVERY = 3  # steps; of an epoch's four, so that checkpoints are within epochs and at their ends
# One child imports torch, and every training is a fork of it that starts in milliseconds.
FORKS = get_context("forkserver")
FORKS.set_forkserver_preload(["tests.resume.runs", "dvt.train.folder_reporter"])


@dataclass(frozen=True)
class Kill:
    """What was found after one."""

    after_s: float  # since the process was started
    step: int  # of the newest checkpoint; 0 if there was none yet
    checkpoints: int  # that were there, all whole
    is_within_write: bool  # whether a checkpoint was being written


@dataclass(frozen=True)
class Torture:
    """What came of all kills."""

    kills: list[Kill]
    steps: int  # of the run
    steps_taken: int  # of all its tries
    is_equal: bool  # to the run that nothing disturbed
    undisturbed_s: float
    disturbed_s: float


def run_folder(folder: Path) -> RunFolder:
    return RunFolder(LocalFileSystem(auto_mkdir=True), str(folder), folder.name)


def train(folder: str, epochs: int) -> None:
    """Train in this process, going on with what is in the folder; the steps that are told are appended to a file."""
    torch.set_num_threads(1)
    tempfile.tempdir = f"{folder}/scratch"
    Path(tempfile.tempdir).mkdir(parents=True, exist_ok=True)
    recipe = change(RECIPE, optimizer={"epochs": epochs - 1}, train={"checkpoint_every_steps": CHECKPOINT_EVERY})
    with Path(folder, "steps.log").open("a", buffering=1) as log:
        reporter = FolderReporter(run_folder(Path(folder)), lambda metrics, step: print(step, file=log))
        train_cascade(recipe, open_images(recipe), WORKER, reporter)


def start(folder: Path, epochs: int) -> Any:
    process = FORKS.Process(target=train, args=(str(folder), epochs))
    process.start()
    return process


def look(folder: Path, after_s: float) -> Kill:
    """Load every checkpoint that a killed run left; raises where one is not whole."""
    place, newest = folder / "checkpoints", last_checkpoint(run_folder(folder))
    names = [path.name for path in place.iterdir()] if place.exists() else []
    whole = [name for name in names if not name.endswith(".partial")]
    for name in whole:
        checkpoint = load_checkpoint(place / name)
        assert checkpoint.step == int(name)
        load_model(place / name)
    assert newest is None or newest in whole
    scratch = folder / "scratch"
    is_within_write = len(whole) < len(names) or (scratch.exists() and any(scratch.rglob(".*.partial")))
    for left in scratch.glob("*") if scratch.exists() else []:
        left.rename(folder / f"left_{left.name}")  # told apart from what the next kill leaves
    return Kill(after_s, int(newest or 0), len(whole), is_within_write)


def torture(folder: Path, num_kills: int, seed: int, epochs: int) -> Torture:
    """Kill a run so many times.

    Raises:
        CheckpointError: If a checkpoint does not load.
    """
    begun = time.perf_counter()
    whole = start(folder / "undisturbed", epochs)
    whole.join()
    assert whole.exitcode == 0
    undisturbed_s = time.perf_counter() - begun
    moments, kills = random.Random(seed), list[Kill]()
    begun, killed = time.perf_counter(), folder / "killed"
    while len(kills) < num_kills:
        after_s = moments.uniform(0, 1.5 * undisturbed_s / num_kills)
        process = start(killed, epochs)
        process.join(after_s)
        process.kill()
        process.join()
        kills.append(look(killed, after_s))
        assert kills[-1].step >= max(kill.step for kill in kills)
        if process.exitcode == 0:
            kills.pop()  # it was done before
            break
    last = start(killed, epochs)
    last.join()
    assert last.exitcode == 0
    steps = epochs * STEPS_PER_EPOCH
    taken = len((killed / "steps.log").read_text().splitlines())
    same = is_equal(outcome(folder / "undisturbed"), outcome(killed))
    return Torture(kills, steps, taken, same, undisturbed_s, time.perf_counter() - begun)


def outcome(folder: Path) -> dict[str, Any]:
    """The bytes of the weights, and what the optimizer keeps, of the newest checkpoint."""
    newest = last_checkpoint(run_folder(folder))
    assert newest is not None
    place = folder / "checkpoints" / newest
    checkpoint = load_checkpoint(place)
    weights = {name: (place / name).read_bytes() for name in (MODEL, EMA)}
    return weights | {"step": checkpoint.step, "optimizer": checkpoint.optimizer, "position": checkpoint.position}


def table(found: Torture) -> str:
    rows = [
        ("kills", str(len(found.kills))),
        ("of them while a checkpoint was written", str(sum(kill.is_within_write for kill in found.kills))),
        ("of them before the first checkpoint", str(sum(kill.step == 0 for kill in found.kills))),
        ("checkpoints loaded, all whole", str(sum(kill.checkpoints for kill in found.kills))),
        ("checkpoints that did not load", "0"),  # one ends the torture
        ("steps of the run", str(found.steps)),
        ("steps taken again", str(found.steps_taken - found.steps)),
        ("seconds undisturbed / disturbed", f"{found.undisturbed_s:.1f} / {found.disturbed_s:.1f}"),
        ("final weights, averages and moments equal", "yes, bit for bit" if found.is_equal else "NO"),
    ]
    width = max(len(name) for name, _ in rows)
    return "\n".join(f"{name:{width}}  {value}" for name, value in rows)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=150)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dvt-torture-") as scratch:
        found = torture(Path(scratch), asked.kills, asked.seed, asked.epochs)
    for number, kill in enumerate(found.kills, start=1):
        told = "while a checkpoint was written" if kill.is_within_write else ""
        print(f"kill {number:2} after {kill.after_s:.2f} s: newest checkpoint of step {kill.step} {told}".rstrip())
    print(table(found))
    return 0 if found.is_equal else 1


if __name__ == "__main__":
    sys.exit(main())
