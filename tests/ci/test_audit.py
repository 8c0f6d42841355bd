"""The audit of dependencies: what fails it, what is let pass, and what it says where nobody can be asked."""

from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.scripts import load_script

ROOT = Path(__file__).resolve().parents[2]
TODAY = date(2026, 11, 27)
FOUND = {
    "name": "pillow",
    "version": "12.3.0",
    "vulns": [{"id": "PYSEC-1", "aliases": ["GHSA-a"], "fix_versions": ["13"]}],
}
CLEAN = {"name": "numpy", "version": "2.4.6", "vulns": []}
UNKNOWN = {"name": "ours", "skip_reason": "Dependency not found on PyPI and could not be audited: ours (1)"}
ADVICE = "update it, or accept it in .ci/accepted_vulnerabilities.yaml with a reason and a date"


@pytest.fixture
def audit() -> ModuleType:
    return load_script(ROOT / ".ci" / "audit.py")


def test_a_vulnerability_fails_it(audit: ModuleType) -> None:
    assert audit.judge([FOUND, CLEAN], {}, TODAY) == (
        [f"audit: pillow 12.3.0: PYSEC-1, fixed in 13; {ADVICE}", "audit: 2 packages checked"],
        1,
    )


@pytest.mark.parametrize("name", ["PYSEC-1", "GHSA-a"])
def test_an_accepted_one_passes_until_its_day(audit: ModuleType, name: str) -> None:
    accepted = {name: {"reason": "never called", "until": TODAY}}
    told = "audit: pillow 12.3.0: PYSEC-1 is accepted until 2026-11-27: never called"
    assert audit.judge([FOUND], accepted, TODAY) == ([told, "audit: 1 packages checked"], 0)
    lines, code = audit.judge([FOUND], accepted, date(2026, 11, 28))
    assert (lines[0].partition("; ")[2], code) == ("it was accepted until 2026-11-27 only", 1)


@pytest.mark.parametrize("entry", [{"reason": "x"}, {"until": TODAY}, {"reason": "x", "until": "soon"}])
def test_it_is_accepted_with_a_reason_and_a_day_only(audit: ModuleType, entry: dict[str, Any]) -> None:
    lines, code = audit.judge([FOUND], {"PYSEC-1": entry}, TODAY)
    assert lines[0].endswith("; .ci/accepted_vulnerabilities.yaml must give it a reason and a date")
    assert code == 1


def test_what_is_accepted_for_nothing_and_what_is_not_known_is_told(audit: ModuleType) -> None:
    accepted = {"PYSEC-9": {"reason": "x", "until": TODAY}}
    assert audit.judge([CLEAN, UNKNOWN], accepted, TODAY) == (
        [
            "audit: PYSEC-9 is accepted but not found; take it out of accepted_vulnerabilities.yaml",
            "audit: the vulnerability service does not know 1 of them: ours",
            "audit: 1 packages checked",
        ],
        0,
    )


Answers = list[tuple[dict[str, Any] | None, str]]


@pytest.mark.parametrize(
    ("answers", "line", "code"),
    [
        (
            [(None, "Traceback\nrequests.exceptions.ConnectionError: no such host\n")],
            (
                "audit: the vulnerability service cannot be reached "
                "(requests.exceptions.ConnectionError: no such host); not checked"
            ),
            0,
        ),
        (
            [({"dependencies": [UNKNOWN]}, "")],
            "audit: the vulnerability service knows no numpy==2.4.6, as a mirror without its data; not checked",
            0,
        ),
        (
            [(None, "No module named pip_audit\n")],
            "audit: pip-audit must run, got an error (No module named pip_audit); not checked",
            1,
        ),
        ([({"dependencies": [CLEAN]}, "")] * 2, "audit: 1 packages checked", 0),
    ],
)
def test_where_nobody_can_be_asked_it_says_so(
    audit: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    answers: Answers,
    line: str,
    code: int,
) -> None:
    (tmp_path / "pinned.txt").write_text("# no package\nnumpy==2.4.6\npillow==12.3.0\n")
    monkeypatch.setattr(audit, "PINNED", tmp_path / "pinned.txt")
    asked: list[list[str]] = []
    left = iter(answers)
    monkeypatch.setattr(audit, "ask", lambda lines: (asked.append(list(lines)), next(left))[1])
    assert audit.main() == code
    assert capsys.readouterr().out == f"{line}\n"
    assert asked == [["numpy==2.4.6"], ["numpy==2.4.6", "pillow==12.3.0"]][: len(answers)]


def test_what_is_accepted_now_can_be_read(audit: ModuleType) -> None:
    accepted = yaml.safe_load(audit.ACCEPTED.read_text())
    assert accepted == {} or all({"reason", "until"} == set(each) for each in accepted.values())
