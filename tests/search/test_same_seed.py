"""The same seed suggests the same recipes in another process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

SUGGEST = """
import hashlib, sys
import optuna
from dvt.config import recipe_to_yaml
from dvt.search import IllegalCandidate, load_space

optuna.logging.set_verbosity(optuna.logging.ERROR)
space = load_space(sys.argv[1])
study = optuna.create_study(sampler=getattr(optuna.samplers, sys.argv[2])(seed=int(sys.argv[3])))
for number in range(16):
    trial = study.ask()
    try:
        told = recipe_to_yaml(space.suggest(trial))
    except IllegalCandidate as error:
        told = str(error)
    print(list(trial.params.items()), hashlib.sha256(told.encode()).hexdigest())
    study.tell(trial, number % 5)
"""


def suggested(space: str, sampler: str, seed: int, hash_seed: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT / "platform"), "PYTHONHASHSEED": hash_seed}
    command = [sys.executable, "-c", SUGGEST, str(ROOT / "search_spaces" / f"{space}.yaml"), sampler, str(seed)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("space", "sampler"), [("embedded", "TPESampler"), ("imagenet_deit_small", "RandomSampler")])
def test_two_processes_suggest_the_same(space: str, sampler: str) -> None:
    first, second = (suggested(space, sampler, 3, hash_seed) for hash_seed in ("1", "2"))
    assert first == second
    assert len(set(first.splitlines())) == 16


def test_another_seed_suggests_others() -> None:
    first, second = (suggested("embedded", "RandomSampler", seed, "1") for seed in (0, 1))
    assert first != second
