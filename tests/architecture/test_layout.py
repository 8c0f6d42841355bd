"""The shape of the repository: names, sizes, and what no file may hold."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = ROOT / "platform" / "dvt"
JOBS = ROOT / "jobs"

MAX_MODULE_LINES = 300
MAX_FUNCTION_LINES = 60
MAX_ARGUMENTS = 8  # self and cls not counted

SAYS_NOTHING = re.compile(r"_*(utils?|helpers?|common|base|managers?|misc)")

# Spelt with a class of one letter where a plain spelling would make this file its own first finding.
PACKAGE_INDEX = re.compile(
    r"p[y]pi\.(?:org|python)|python[h]osted|download\.p[y]torch|a[n]aconda\.(?:org|com)"
    r"|(?:index|find)[-](?:url|links)\b"
)
HOME_PATH = re.compile(r"(?<![\w.>}])/(?:home|Users|root)/\w")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def library_modules() -> list[Path]:
    modules = sorted(LIBRARY.rglob("*.py"))
    assert modules, f"no modules below {LIBRARY}"
    return modules


def jobs() -> list[Path]:
    scripts = sorted(JOBS.glob("*.py"))
    assert scripts, f"no scripts in {JOBS}"
    return scripts


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def functions(path: Path) -> Iterator[tuple[Function, bool]]:
    """Every function of a module, and whether it is a method with self or cls."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for parent in ast.walk(tree):
        for node in ast.iter_child_nodes(parent):
            if isinstance(node, Function):
                static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in node.decorator_list)
                yield node, isinstance(parent, ast.ClassDef) and not static


def git(*arguments: str) -> list[str]:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    done = subprocess.run(["git", *arguments, "-z"], cwd=ROOT, capture_output=True, text=True, check=True)
    return [entry for entry in done.stdout.split("\0") if entry]


def test_platform_is_a_plain_folder() -> None:
    assert (ROOT / "platform").is_dir()
    assert not (ROOT / "platform" / "__init__.py").exists(), (
        "platform/__init__.py shadows the standard library's platform module on every Ray worker: remove it"
    )


def test_nothing_on_a_workers_path_has_a_standard_library_name() -> None:
    # Ray puts the working directory and the script's folder in front of the standard library.
    names = {path.stem: named(path) for folder in (ROOT, JOBS) for path in folder.glob("*.py")}
    names |= {path.parent.name: named(path) for folder in (ROOT, JOBS) for path in folder.glob("*/__init__.py")}
    assert [path for name, path in names.items() if name in sys.stdlib_module_names] == []


def test_jobs_are_executable_scripts() -> None:
    for path in jobs():
        assert path.read_text(encoding="utf-8").partition("\n")[0] == "#!/usr/bin/env python", named(path)
        assert os.access(path, os.X_OK), f"{named(path)} must be executable: chmod +x"


def test_git_keeps_jobs_executable() -> None:
    staged = git("ls-files", "--stage", "jobs/*.py")  # "<mode> <object> <stage>\t<path>"
    assert [entry for entry in staged if not entry.startswith("100755 ")] == []


def test_module_names_say_what_is_inside() -> None:
    modules = [*library_modules(), *jobs()]
    vague = [named(path) for path in modules if any(map(SAYS_NOTHING.fullmatch, (path.stem, path.parent.name)))]
    assert vague == []


def test_modules_are_short() -> None:
    sizes = {named(path): len(path.read_text(encoding="utf-8").splitlines()) for path in library_modules()}
    assert {path: lines for path, lines in sizes.items() if lines > MAX_MODULE_LINES} == {}


def test_functions_are_short() -> None:
    sizes = {
        f"{named(path)}:{node.lineno} {node.name}": (node.end_lineno or 0) - node.lineno + 1
        for path in library_modules()
        for node, _ in functions(path)
    }
    assert {function: lines for function, lines in sizes.items() if lines > MAX_FUNCTION_LINES} == {}


def test_functions_take_few_arguments() -> None:
    counts = {
        f"{named(path)}:{node.lineno} {node.name}": argument_count(node) - is_method
        for path in library_modules()
        for node, is_method in functions(path)
    }
    assert {function: count for function, count in counts.items() if count > MAX_ARGUMENTS} == {}


def argument_count(node: Function) -> int:
    return len(node.args.posonlyargs) + len(node.args.args) + len(node.args.kwonlyargs)


def test_no_file_names_a_package_index_or_a_home_folder() -> None:
    # Files that are not committed yet count too, so that a slip shows before the commit.
    found = []
    for name in git("ls-files", "--cached", "--others", "--exclude-standard"):
        path = ROOT / name
        if path.is_symlink() or not path.is_file():  # a file that is deleted but not yet staged
            continue
        text = path.read_bytes().decode("utf-8", errors="ignore")
        found += [f"{name}: {match[0]}" for pattern in (PACKAGE_INDEX, HOME_PATH) for match in pattern.finditer(text)]
    assert found == []
