"""Programs that tests need and pip does not install."""

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest

REQUIRED = "DVT_REQUIRE_PROGRAMS"  # set where a missing program must fail the run, as in CI


def needed_program(name: str, package: str, beside: Sequence[Path] = ()) -> Path:
    """Where a program is; without it the test is skipped, or fails where `REQUIRED` is set.

    Args:
        name: Of the program.
        package: Debian's package that holds it.
        beside: Folders to look in that are not on the PATH.
    """
    found = shutil.which(name, path=os.pathsep.join([*map(str, beside), os.environ.get("PATH", "")]))
    if found is not None:
        return Path(found)
    told = f"needs {name}; install Debian's package {package}"
    if os.environ.get(REQUIRED):
        pytest.fail(told)
    pytest.skip(told)
