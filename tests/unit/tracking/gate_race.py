"""Many gates at once, in two processes of four threads each, that all stand on the same grounds and all pass."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from dvt.exits.gate import BudgetComparison

BETTER = BudgetComparison(
    budget_macs=2e6,
    candidate_top1=0.82,
    champion_top1=0.80,
    difference=0.02,
    low=0.005,
    high=0.035,
    candidate_macs=1.9e6,
    champion_macs=1.8e6,
    macs_high=0.2e6,
    candidate_alone=30,
    champion_alone=10,
)
NUM_GATES = 8
_RACER = """
import sys
from concurrent.futures import ThreadPoolExecutor
from dvt.tracking.moves import RegistryChangedError
from dvt.tracking.promotion import read_grounds, settle
from dvt.tracking.verdict import verdict_beside
from tests.unit.tracking.gate_race import BETTER

store, name = sys.argv[1:]
grounds = read_grounds(store, name, "candidate", "champion")
verdict = verdict_beside([BETTER], margin=0.005, num_images=1000, data="/images/val")
print("ready", flush=True)
sys.stdin.readline()

def gate(_):
    try:
        return str(settle(store, grounds, verdict).target)
    except RegistryChangedError as error:
        return str(error)

with ThreadPoolExecutor(4) as pool:
    for told in pool.map(gate, range(4)):
        print(told, flush=True)
"""


def race(store: str, name: str, env: Mapping[str, str] = os.environ) -> list[str]:
    """What each gate tells: the version that it moved champion to, or why it moved nothing."""
    command = [sys.executable, "-c", _RACER, store, name]
    root = Path(__file__).parents[3]
    racers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root, env=dict(env))
        for _ in range(2)
    ]
    try:
        assert [racer.stdout.readline() for racer in racers if racer.stdout] == ["ready\n"] * 2
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
            racer.stdin.flush()
        return [line for racer in racers for line in racer.communicate(timeout=120)[0].splitlines()]
    finally:
        for racer in racers:
            racer.kill()
            racer.wait()
