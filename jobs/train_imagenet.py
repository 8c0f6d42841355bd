#!/usr/bin/env python
"""Train a cascade on a Ray cluster: `ray job submit --working-dir . -- jobs/train_imagenet.py --recipe FILE ...`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "platform"))  # the cluster's nodes need not have the project installed

from dvt.cli.failure import exit_code_of  # noqa: E402
from dvt.cli.train import main  # noqa: E402

if __name__ == "__main__":
    recipe = ROOT / "jobs" / "recipes" / "imagenet_t2t_vit_12.yaml"
    sys.exit(exit_code_of(lambda words: main(words, default_recipe=recipe), sys.argv[1:]))
