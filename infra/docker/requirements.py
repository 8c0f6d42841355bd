#!/usr/bin/env python3
"""Prints what the nodes of a cluster must have installed: the project's dependencies, for `pip install --requirement`.

The project itself is not among them; it travels with each job. Their versions are those of constraints.txt.
"""

import sys
import tomllib
from pathlib import Path

DRIVER = "psycopg"  # of PostgreSQL, where an Optuna study or MLflow's runs may be


def requirements(pyproject: Path) -> list[str]:
    """The lines for pip."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    drivers = [each for each in project["optional-dependencies"]["server"] if each.startswith(DRIVER)]
    return [*project["dependencies"], *drivers]


if __name__ == "__main__":
    print("\n".join(requirements(Path(sys.argv[1]))))
