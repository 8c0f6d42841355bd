"""Runs the commands of infra/ with a shell, in a scratch folder, with the programs that this machine lacks stubbed."""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_STUB = """#!/bin/bash
printf '%s' "$(basename "$0")" >> "$CALLS"
printf ' %q' "$@" >> "$CALLS"
printf '\\n' >> "$CALLS"
case "$*" in {answers} esac
if [ "${{!#}}" = - ]; then cat > /dev/null; fi  # reads its input as the program does: else what writes it gets SIGPIPE
exit 0
"""


def stub(folder: Path, name: str, answers: Mapping[str, str] | None = None) -> Path:
    """A program that notes how it is called in the file `$CALLS`.

    Args:
        folder: Where it is put; first on the PATH of `run`.
        name: Of the program.
        answers: What it prints where its arguments hold a text.
    """
    folder.mkdir(parents=True, exist_ok=True)
    cases = " ".join(f"*'{text}'*) echo '{answer}' ;;" for text, answer in (answers or {}).items()) or "*) ;;"
    path = folder / name
    path.write_text(_STUB.format(answers=cases))
    path.chmod(0o755)
    return path


def run(
    commands: str | Sequence[str], folder: Path, env: Mapping[str, str] | None = None, cwd: Path = ROOT
) -> "subprocess.CompletedProcess[str]":
    """Run shell commands with the stubs of `folder/bin` first; what these were called with is `calls(folder)`."""
    script = commands if isinstance(commands, str) else "\n".join(commands)
    path = os.pathsep.join((str(folder / "bin"), os.environ["PATH"]))
    full = {"PATH": path, "HOME": str(folder), "CALLS": str(folder / "calls"), **(env or {})}
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=cwd, env=full, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def calls(folder: Path) -> list[str]:
    """How the stubs were called, one line each."""
    path = folder / "calls"
    return path.read_text().splitlines() if path.exists() else []


def code_blocks(readme: Path) -> list[str]:
    """The shell commands that a page tells to run."""
    return [re.sub(r"(?m)^   ", "", block) for block in re.findall(r"```sh\n(.*?)```", readme.read_text(), re.DOTALL)]


def dockerfile(path: Path) -> list[tuple[str, str]]:
    """A Dockerfile's instructions, with their words behind them."""
    text = re.sub(r"(?m)^#.*\n", "", path.read_text()).replace("\\\n", " ")
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in text.splitlines() if line.strip()]


def pinned() -> dict[str, str]:
    """The versions of constraints.txt, by package."""
    lines = (line.partition("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    return {name.lower().replace("_", "-"): version for name, sign, version in lines if sign}
