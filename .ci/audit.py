#!/usr/bin/env python
"""Look for known vulnerabilities of the pinned packages with pip-audit; fails on those that are not accepted.

Where the vulnerability service cannot be reached, or knows none of the packages as a mirror does, it says so in one
line and does not fail: a build without that service must be possible.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
PINNED = ROOT / "constraints.txt"
ACCEPTED = Path(__file__).with_name("accepted_vulnerabilities.yaml")
PROBE = "numpy"  # asked about first: the service knows it if it knows anything
TIMEOUT_S = 10
_AWAY = ("ConnectionError", "ConnectTimeout", "ReadTimeout", "Could not connect", "ServiceError", "SSLError")


def main() -> int:
    """Audit, tell, and return the exit code."""
    pinned = [line for line in PINNED.read_text(encoding="utf-8").splitlines() if "==" in line]
    probe = [line for line in pinned if line.startswith(f"{PROBE}==")]
    report, trouble = ask(probe)
    if report is not None and all("skip_reason" in each for each in report["dependencies"]):
        return tell(
            [f"audit: the vulnerability service knows no {probe[0]}, as a mirror without its data; not checked"], 0
        )
    if report is not None:
        report, trouble = ask(pinned)
    if report is None:
        is_away = any(word in trouble for word in _AWAY)
        last = next(iter(trouble.strip().splitlines()[-1:]), "no answer")
        what = "the vulnerability service cannot be reached" if is_away else "pip-audit must run, got an error"
        return tell([f"audit: {what} ({last[:200]}); not checked"], 0 if is_away else 1)
    accepted = yaml.safe_load(ACCEPTED.read_text(encoding="utf-8")) or {}
    return tell(*judge(report["dependencies"], accepted, datetime.now(UTC).date()))


def ask(lines: Sequence[str]) -> tuple[dict[str, Any] | None, str]:
    """What pip-audit reports of pinned packages, None if it could not ask; and what it printed beside."""
    with tempfile.TemporaryDirectory() as scratch:
        asked = Path(scratch, "packages.txt")
        asked.write_text("\n".join(lines) + "\n", encoding="utf-8")
        options = ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off"]
        command = [sys.executable, "-m", "pip_audit", "-r", str(asked), *options, "--timeout", str(TIMEOUT_S)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return json.loads(done.stdout), done.stderr
    except ValueError:
        return None, done.stderr


def judge(
    packages: Sequence[Mapping[str, Any]], accepted: Mapping[str, Mapping[str, Any]], today: date
) -> tuple[list[str], int]:
    """What to tell, and the exit code: 1 if there is a vulnerability that is not accepted, or is no longer."""
    lines, code, seen = [], 0, set()
    for package in packages:
        for found in package.get("vulns", []):
            names = {found["id"], *found.get("aliases", [])}
            seen |= names
            told = f"{package['name']} {package['version']}: {found['id']}"
            entry = next((accepted[name] for name in sorted(names) if name in accepted), None)
            why = _why_refused(entry, today)
            if why:
                fixed = ", ".join(found.get("fix_versions", [])) or "no version yet"
                lines.append(f"audit: {told}, fixed in {fixed}; {why}")
                code = 1
            else:
                assert entry is not None
                lines.append(f"audit: {told} is accepted until {entry['until']}: {entry['reason']}")
    lines += [
        f"audit: {name} is accepted but not found; take it out of {ACCEPTED.name}"
        for name in accepted
        if name not in seen
    ]
    skipped = [package["name"] for package in packages if "skip_reason" in package]
    if skipped:
        lines.append(f"audit: the vulnerability service does not know {len(skipped)} of them: {', '.join(skipped)}")
    return [*lines, f"audit: {len(packages) - len(skipped)} packages checked"], code


def _why_refused(entry: Mapping[str, Any] | None, today: date) -> str:
    if entry is None:
        return f"update it, or accept it in .ci/{ACCEPTED.name} with a reason and a date"
    if not entry.get("reason") or not isinstance(entry.get("until"), date):
        return f".ci/{ACCEPTED.name} must give it a reason and a date"
    return "" if today <= entry["until"] else f"it was accepted until {entry['until']} only"


def tell(lines: Sequence[str], code: int) -> int:
    """Print the lines; returns the code."""
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
