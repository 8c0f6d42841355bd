"""`python -m tests.faults [NAME ...]`: one fault after another on a cluster of three hosts, as a table.

Each is done to a run of its own, in the middle of training; an undisturbed run goes first. Ends with code 1 if a run
did not end as it should. Takes two or three minutes a fault on two cores.
"""

import argparse
import contextlib
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from pathlib import Path

import psutil
from mlflow.exceptions import MlflowException

from tests.faults.faults import AT_STEP, FAULTS, Fault
from tests.faults.process import small_disks
from tests.faults.table import Measured, compared, keep, told
from tests.faults.training import Length, Training, course
from tests.integration.site import Site, running_site

# Who holds which rank is asked of Ray; each step is told when it is taken, else those of two seconds at once.
ENV = {"RAY_TRAIN_ENABLE_STATE_TRACKING": "1", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2"}

OTHER_SEEDS = 1, 2  # the recipe's is 0

FAILURES = (AssertionError, OSError, subprocess.SubprocessError, psutil.Error, MlflowException)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FAULTS)}; all without")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the results go as JSON")
    asked = parser.parse_args()
    unknown = [name for name in asked.names if name not in FAULTS]
    if unknown:
        parser.error(f"NAME must be one of {', '.join(FAULTS)}, got {', '.join(unknown)}")
    names = asked.names or list(FAULTS)
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # which ends the servers, too
    rows: list[Measured] = []
    with (
        tempfile.TemporaryDirectory(prefix="dvt-faults-") as spool,  # not on the disk that is filled
        running_site(3, ENV | {"DVT_SPOOL": spool}) as site,
    ):
        print(site.hosts.told, flush=True)
        lengths = dict.fromkeys(FAULTS[name].length for name in names)
        undisturbed = {length: _train(site, length) for length in lengths}
        passing = dict.fromkeys(FAULTS[name].length for name in names if FAULTS[name].passes_over)
        of_seeds = {length: [_train(site, length, seed) for seed in OTHER_SEEDS] for length in passing}
        failures = 0
        for name in names:
            print(f"{name} ...", flush=True)
            fault = FAULTS[name]
            try:
                others = of_seeds[fault.length] if fault.passes_over else []
                rows.append(_measured(site, name, fault, undisturbed[fault.length], others))
                print(told(rows[-1:]).splitlines()[-1], flush=True)
                if asked.json is not None:  # each time, as all take an hour
                    keep(rows, {str(length): run for length, run in undisturbed.items()}, asked.json)
            except FAILURES:  # of one fault; the others are to be seen all the same
                failures += 1
                print(f"{name} failed:\n{traceback.format_exc()}", flush=True)
                site.relay.is_busy, site.relay.delay_s = False, 0.0
                site.hosts.begin_again()
        print(told(rows))
    return int(failures > 0 or not all(row.difference.is_within for row in rows))


def _train(site: Site, length: Length, seed: int = 0) -> dict[str, float]:
    """The final metrics of an undisturbed run."""
    print(f"undisturbed, {length}, seed {seed} ...", flush=True)
    training = Training(site, f"undisturbed-{length.epochs}-{seed}", ("--train.seed", str(seed)), length)
    training.submit()
    code = training.ended()
    assert code == 0, training.text
    return training.results()


def _measured(
    site: Site, name: str, fault: Fault, undisturbed: dict[str, float], others: Sequence[dict[str, float]]
) -> Measured:
    site.hosts.be(fault.hosts)
    training = Training(site, name, fault.words, fault.length)
    with small_disks(site.hosts) if fault.has_small_disks else contextlib.nullcontext():
        training.submit()
        training.wait_for_step(AT_STEP)
        begun = time.time()
        remark = fault.do(training)
        code = training.ended()
    assert code == 0, training.text
    found, results = course(training.rows(), begun), training.results()
    difference = compared(results, undisturbed, others)
    return Measured(name, found.pause_s, found.steps_lost, difference, remark, results)


if __name__ == "__main__":
    sys.exit(main())
