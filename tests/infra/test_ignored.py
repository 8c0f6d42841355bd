"""What the pages of infra/ put into the root of the repository is neither committed nor uploaded to a cluster."""

import re
import subprocess
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import get_excludes_from_ignore_files

from tests.infra.shell import ROOT, code_blocks

MADE = ("certificates/ca.key", "mlflow-server/bin/python", "cluster.local.yaml", "head.local.json")


def names() -> set[str]:
    """The files of settings that the pages name, and what their commands make."""
    pages = list((ROOT / "infra").glob("*/README.md"))
    settings = {name for page in pages for name in re.findall(r"[ `=./](\w+\.env)\b", page.read_text())}
    assert settings == {"aws.env", "job.env", "mlflow.env"}
    blocks = "".join(block for page in pages for block in code_blocks(page))
    assert all(name.partition("/")[0].replace("head", "$role") in blocks for name in MADE)
    return settings | set(MADE)


@pytest.mark.parametrize("name", sorted(names()))
def test_it_is_ignored(name: str) -> None:
    assert subprocess.run(["git", "check-ignore", "--quiet", name], cwd=ROOT, check=False).returncode == 0
    for include_gitignore in (True, False):
        ignored = get_excludes_from_ignore_files(ROOT, include_gitignore)
        is_ignored = any(match(ROOT / Path(name)) or match((ROOT / name).parent) for match in ignored)
        assert is_ignored
