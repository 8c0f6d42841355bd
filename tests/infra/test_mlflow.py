"""The files of infra/mlflow: settings are checked, secrets kept, and container and script agree.

The server itself is started by tests/integration/test_mlflow_server.py, through the same script.
"""

import configparser
import re
import stat
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from tests.scripts import load_script

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "infra" / "mlflow"
GOOD = {
    "MLFLOW_BACKEND_STORE_URI": "postgresql://mlflow:p%40ss@db/mlflow",
    "MLFLOW_ARTIFACTS_DESTINATION": "s3://bucket/team",
    "MLFLOW_AUTH_ADMIN_USERNAME": "keeper",
    "MLFLOW_AUTH_ADMIN_PASSWORD": "twelve letters",
    "MLFLOW_FLASK_SERVER_SECRET_KEY": "k" * 32,
}


@pytest.fixture(scope="module")
def serve() -> ModuleType:
    return load_script(FOLDER / "serve.py")


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
    return found


def test_whole_settings_have_no_problems(serve: ModuleType) -> None:
    assert serve.problems_of(GOOD) == []
    assert serve.problems_of(GOOD | {"MLFLOW_BACKEND_STORE_URI": "postgresql+psycopg://a:b@h/d"}) == []


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("MLFLOW_BACKEND_STORE_URI", None, "must be postgresql://USER:PASSWORD@HOST/DATABASE, got none"),
        ("MLFLOW_BACKEND_STORE_URI", "sqlite:///x.db", "must be postgresql://USER:PASSWORD@HOST/DATABASE, got another"),
        (
            "MLFLOW_BACKEND_STORE_URI",
            "postgresql://db",
            "must be postgresql://USER:PASSWORD@HOST/DATABASE, got another",
        ),
        ("MLFLOW_ARTIFACTS_DESTINATION", "/data", "must be s3://BUCKET/PREFIX, got another"),
        ("MLFLOW_AUTH_ADMIN_USERNAME", "", "must name the administrator, got none"),
        ("MLFLOW_AUTH_ADMIN_PASSWORD", "short", "must have at least 12 characters, got another"),
        ("MLFLOW_FLASK_SERVER_SECRET_KEY", None, "must have at least 32 characters, got none"),
        (
            "DVT_MLFLOW_DEFAULT_PERMISSION",
            "ALL",
            "must be one of NO_PERMISSIONS, READ, USE, EDIT, MANAGE, got another",
        ),
    ],
)
def test_a_bad_setting_is_one_sentence(serve: ModuleType, name: str, value: str | None, told: str) -> None:
    env = {key: each for key, each in (GOOD | {name: value}).items() if each is not None}
    assert serve.problems_of(env) == [f"{name} {told}"]


def test_nothing_is_started_with_bad_settings() -> None:
    done = subprocess.run([sys.executable, FOLDER / "serve.py"], env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    lines = done.stderr.splitlines()
    assert len(lines) == len(GOOD)
    assert all(line.startswith("serve.py: MLFLOW_") for line in lines)


def test_the_file_of_the_users_database_is_for_its_owner_alone(serve: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "auth.ini"
    serve.write_auth_config(path, GOOD, "postgresql+psycopg://mlflow:p%40ss@db/mlflow")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    config = configparser.ConfigParser(interpolation=None)
    config.read(path)
    assert config["mlflow"]["database_uri"] == "postgresql+psycopg://mlflow:p%40ss@db/mlflow"
    assert "admin_password" not in config["mlflow"]


def test_compose_gives_the_script_what_it_needs_and_no_secret_of_its_own(
    serve: ModuleType, compose: dict[str, Any]
) -> None:
    assert set(compose) == {"services", "volumes"}
    mlflow, postgres = compose["services"]["mlflow"], compose["services"]["postgres"]
    # As compose fills variables in, where each that must be set is.
    given = {
        name: re.sub(
            r"\$\{(\w+)(:\?[^}]*|:-([^}]*))\}", lambda found: found[3] or GOOD.get(found[1], "from-env-file"), text
        )
        for name, text in mlflow["environment"].items()
    }
    assert serve.problems_of(given) == []
    for service in (mlflow, postgres):
        for name, text in service["environment"].items():
            if re.search("PASSWORD|SECRET|KEY", name):
                assert re.fullmatch(r"\$\{\w+:\?must be set\}", text), name
    assert mlflow["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert postgres["healthcheck"]["test"][1] == "pg_isready"
    assert postgres["volumes"] == ["postgres:/var/lib/postgresql/data"]
    assert "postgres" in compose["volumes"]
    assert "ports" not in postgres
    assert all(port.startswith("127.0.0.1:") for port in mlflow["ports"])
    assert (FOLDER / mlflow["build"]["context"]).resolve() == ROOT
    assert (ROOT / mlflow["build"]["dockerfile"]).is_file()


def test_the_image_copies_what_is_there_and_runs_as_nobody_special() -> None:
    lines = (FOLDER / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
    for words in (line.split() for line in lines if line.startswith("COPY") and "--from" not in line):
        assert all((ROOT / source).is_file() for source in words[1:-1])
    assert "USER mlflow" in lines
    assert lines.index("USER mlflow") < next(index for index, line in enumerate(lines) if line.startswith("ENTRYPOINT"))
    bases = [line.split()[1] for line in lines if line.startswith("FROM")]
    assert all(re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", base) for base in bases)


def test_the_image_has_pinned_versions_alone() -> None:
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if not line.startswith("#")
    }
    wanted = [line for line in (FOLDER / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert {line.partition("[")[0] for line in wanted} <= pinned


def test_every_setting_is_told_in_the_readme() -> None:
    told = (FOLDER / "README.md").read_text()
    names = set(re.findall(r"\b(?:DVT_)?MLFLOW_[A-Z0-9_]+", (FOLDER / "serve.py").read_text()))
    names |= set(re.findall(r"\b(?:DVT_)?MLFLOW_[A-Z0-9_]+", (FOLDER / "compose.yaml").read_text()))
    internal = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "MLFLOW_AUTH_CONFIG_PATH"}
    assert [name for name in sorted(names - internal) if f"`{name}`" not in told] == []
