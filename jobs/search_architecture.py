#!/usr/bin/env python
"""Search cascades on a cluster: `ray job submit --working-dir . -- jobs/search_architecture.py --space FILE ...`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "platform"))  # the cluster's nodes need not have the project installed

from dvt.cli.failure import exit_code_of  # noqa: E402
from dvt.cli.search_run import run  # noqa: E402

if __name__ == "__main__":
    space = ROOT / "search_spaces" / "imagenet_t2t_vit_12.yaml"
    sys.exit(exit_code_of(lambda words: run(words, prog="search_architecture.py", default_space=space), sys.argv[1:]))
