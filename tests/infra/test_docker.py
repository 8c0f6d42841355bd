"""infra/docker: the build copies what is there, installs pinned versions alone, and leaves no rights in the image."""

import fnmatch
import re
import shlex
import tomllib
from pathlib import Path

import pytest

from tests.infra.shell import ROOT, calls, code_blocks, dockerfile, pinned, run, stub

FOLDER = ROOT / "infra" / "docker"
LINES = dockerfile(FOLDER / "Dockerfile")


def stages() -> dict[str, list[tuple[str, str]]]:
    """Instructions by stage."""
    found: dict[str, list[tuple[str, str]]] = {}
    for kind, words in LINES:
        if kind == "FROM":
            stage = found.setdefault(words.split()[-1], [])
        stage.append((kind, words))
    return found


def test_stages_begin_where_the_mlflow_servers_image_does() -> None:
    (base,) = {words.split()[0] for kind, words in dockerfile(ROOT / "infra/mlflow/Dockerfile") if kind == "FROM"}
    begun = [stage[0][1] for stage in stages().values()]
    assert begun == [f"{base} AS build", f"{base} AS cpu", "cpu AS gpu"]


def test_what_is_copied_is_there_and_may_be_seen_by_the_build() -> None:
    shown = [line[1:] for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"]
    sources = [
        source
        for kind, words in LINES
        if kind == "COPY" and "--from" not in words
        for source in shlex.split(words)[:-1]
    ]
    assert sorted(sources) == sorted(shown)
    assert all((ROOT / source).exists() for source in sources)
    hidden = [line for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines() if line[:2] == "**"]
    assert any(fnmatch.fnmatch("platform/dvt/__pycache__", pattern) for pattern in hidden)


def test_images_run_as_nobody_special_and_hold_no_secret() -> None:
    for name in ("cpu", "gpu"):
        users = [words for kind, words in stages()[name] if kind == "USER"]
        assert users[-1] == "10001"
    settings = " ".join(words for kind, words in LINES if kind in ("ENV", "ARG"))
    assert {"RAY_AUTH_MODE=token", "RAY_JOB_STOP_WAIT_TIME_S=30"} <= set(settings.split())
    assert not re.search("(?i)secret|password|key=|auth_token", settings)


def test_every_package_of_debian_has_a_version() -> None:
    for _, words in LINES:
        for packages in re.findall(r"apt-get install -y --no-install-recommends ([^&]+)", words):
            assert all("=" in package for package in packages.split())


def test_the_nodes_have_the_projects_dependencies_at_pinned_versions(tmp_path: Path) -> None:
    """The build's own command, in a folder that stands for the image."""
    (command,) = (words for kind, words in stages()["build"] if kind == "RUN")
    (tmp_path / "build").mkdir()
    for name in ("constraints.txt", "pyproject.toml", "infra/docker/requirements.py"):
        (tmp_path / "build" / Path(name).name).write_bytes((ROOT / name).read_bytes())
    stub(tmp_path / "opt" / "dvt" / "venv" / "bin", "pip")
    script = command.replace("/build", f"{tmp_path}/build").replace("/opt", f"{tmp_path}/opt")
    assert " && python -m venv " in script
    done = run(script.replace(" && python -m venv ", " && true "), tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line.split()[:2] for line in calls(tmp_path)] == [["pip", "install"]]
    assert f"-c {tmp_path}/build/constraints.txt -r {tmp_path}/build/requirements.txt" in calls(tmp_path)[0]
    installed = (tmp_path / "build" / "requirements.txt").read_text().splitlines()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(project["dependencies"]) < set(installed)
    assert [line for line in installed if line not in project["dependencies"]] == ["psycopg[binary]>=3.2"]
    names = {re.split(r"[\[<>=]", line)[0].lower().replace("_", "-") for line in installed}
    assert names <= set(pinned())


@pytest.mark.parametrize("words", [words for kind, words in LINES if kind == "RUN"])
def test_commands_are_shell(words: str, tmp_path: Path) -> None:
    assert run(f"bash -n -c {shlex.quote(words)}", tmp_path).returncode == 0


def test_the_readmes_commands_build_the_targets_that_there_are(tmp_path: Path) -> None:
    stub(tmp_path / "bin", "docker")
    for block in code_blocks(FOLDER / "README.md"):
        assert run(block, tmp_path).returncode == 0
    targets = {call.split("--target ")[1].split()[0] for call in calls(tmp_path)}
    assert targets == {"cpu", "gpu"} < set(stages())
