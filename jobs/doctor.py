#!/usr/bin/env python
"""Look at a Ray cluster before a long job: `ray job submit --working-dir . -- jobs/doctor.py --recipe FILE ...`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "platform"))  # the cluster's nodes need not have the project installed

from dvt.cli.doctor import main  # noqa: E402
from dvt.cli.failure import exit_code_of  # noqa: E402

if __name__ == "__main__":
    sys.exit(exit_code_of(main, sys.argv[1:]))
