"""`python -m tests.faults [NAME ...]`: one fault after another on a cluster of three hosts, as a table.

Each is done to a run of its own, in the middle of training; an undisturbed run goes first. Ends with code 1 if a run
did not end as it should. Takes a minute or two a fault.
"""

import argparse
import sys
import time
from pathlib import Path

from tests.faults.faults import AT_STEP, FAULTS, Fault
from tests.faults.table import Measured, compared, keep, told
from tests.faults.training import Training, course
from tests.integration.site import Site, running_site

# Who holds which rank is asked of Ray.
ENV = {"RAY_TRAIN_ENABLE_STATE_TRACKING": "1"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(FAULTS)}; all without")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the results go as JSON")
    asked = parser.parse_args()
    unknown = [name for name in asked.names if name not in FAULTS]
    if unknown:
        parser.error(f"NAME must be one of {', '.join(FAULTS)}, got {', '.join(unknown)}")
    rows: list[Measured] = []
    with running_site(3, ENV) as site:
        print(site.hosts.told, flush=True)
        undisturbed = _train(site, "undisturbed")
        failures = 0
        for name in asked.names or FAULTS:
            print(f"{name} ...", flush=True)
            try:
                rows.append(_measured(site, name, FAULTS[name], undisturbed.results()))
            except AssertionError as error:
                failures += 1
                print(f"{name} failed: {error}", flush=True)
        print(told(rows))
        if asked.json is not None:
            keep(rows, undisturbed.results(), asked.json)
    return int(failures > 0 or not all(row.is_within for row in rows))


def _train(site: Site, name: str) -> Training:
    training = Training(site, name)
    training.submit()
    code = training.ended()
    assert code == 0, training.text
    return training


def _measured(site: Site, name: str, fault: Fault, undisturbed: dict[str, float]) -> Measured:
    site.hosts.be(fault.hosts)
    training = Training(site, name)
    training.submit()
    training.wait_for_step(AT_STEP)
    begun = time.time()
    remark = fault.do(training)
    code = training.ended()
    assert code == 0, training.text
    found, results = course(training.rows(), begun), training.results()
    difference, is_within = compared(results, undisturbed)
    return Measured(name, found.pause_s, found.steps_lost, difference, is_within, remark, results)


if __name__ == "__main__":
    sys.exit(main())
