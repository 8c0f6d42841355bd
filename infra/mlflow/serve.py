#!/usr/bin/env python3
"""Starts MLflow's tracking server on PostgreSQL with artifacts in a bucket and authentication on.

Everything is set in the environment, most of it by MLflow's own variables; README.md lists them. Secrets stand neither
on a command line nor in a file that others can read. Clients need no credentials of the bucket: the server hands
artifacts on.
"""

import configparser
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

DRIVER = "postgresql+psycopg"
PERMISSIONS = ("NO_PERMISSIONS", "READ", "USE", "EDIT", "MANAGE")
LEAST_SECRET, LEAST_PASSWORD = 32, 12  # characters


def problems_of(env: Mapping[str, str]) -> list[str]:
    """One sentence for each setting that is missing or wrong; none holds a secret."""
    found = []

    def require(holds: bool, name: str, rule: str) -> None:
        if not holds:
            found.append(f"{name} must {rule}, got {'another' if env.get(name) else 'none'}")

    database, bucket = (
        urlsplit(env.get("MLFLOW_BACKEND_STORE_URI", "")),
        urlsplit(env.get("MLFLOW_ARTIFACTS_DESTINATION", "")),
    )
    is_database = database.scheme in ("postgresql", DRIVER) and database.hostname and database.path.strip("/")
    require(bool(is_database), "MLFLOW_BACKEND_STORE_URI", "be postgresql://USER:PASSWORD@HOST/DATABASE")
    require(bucket.scheme == "s3" and bool(bucket.netloc), "MLFLOW_ARTIFACTS_DESTINATION", "be s3://BUCKET/PREFIX")
    for name, least in (
        ("MLFLOW_FLASK_SERVER_SECRET_KEY", LEAST_SECRET),
        ("MLFLOW_AUTH_ADMIN_PASSWORD", LEAST_PASSWORD),
    ):
        require(len(env.get(name, "")) >= least, name, f"have at least {least} characters")
    require(bool(env.get("MLFLOW_AUTH_ADMIN_USERNAME")), "MLFLOW_AUTH_ADMIN_USERNAME", "name the administrator")
    permission = env.get("DVT_MLFLOW_DEFAULT_PERMISSION", "READ")
    require(permission in PERMISSIONS, "DVT_MLFLOW_DEFAULT_PERMISSION", f"be one of {', '.join(PERMISSIONS)}")
    return found


def write_auth_config(path: Path, env: Mapping[str, str], database: str) -> None:
    """MLflow reads the address of its users' tables from a file alone; it holds the database's password."""
    config = configparser.RawConfigParser()  # a percent sign in a password is one
    config["mlflow"] = {
        "default_permission": env.get("DVT_MLFLOW_DEFAULT_PERMISSION", "READ"),
        "database_uri": database,  # beside the runs, in tables of their own
        "admin_username": env["MLFLOW_AUTH_ADMIN_USERNAME"],
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
        "auth_cache_ttl_seconds": env.get("DVT_MLFLOW_AUTH_CACHE_S", "60"),
    }
    path.touch(mode=0o600)
    with path.open("w", encoding="utf-8") as file:
        config.write(file)


def serve(env: Mapping[str, str]) -> int:
    """Run the server until it ends or is told to; returns its exit code."""
    database = f"{DRIVER}{env['MLFLOW_BACKEND_STORE_URI'].removeprefix(DRIVER).removeprefix('postgresql')}"
    with tempfile.TemporaryDirectory(prefix="dvt-mlflow-") as folder:
        auth = Path(folder) / "auth.ini"
        write_auth_config(auth, env, database)
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", "--app-name", "basic-auth", "--serve-artifacts"],
            env={
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # prompts and judges of language models, not ours
                **{name: value for name, value in env.items() if value},  # compose sets what is optional to nothing
                "MLFLOW_BACKEND_STORE_URI": database,
                "MLFLOW_AUTH_CONFIG_PATH": str(auth),
            },
        )
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: server.terminate())
        return server.wait()


def main() -> int:
    """Check the settings, and serve."""
    found = problems_of(os.environ)
    for sentence in found:
        print(f"serve.py: {sentence}; README.md beside it tells how it is set", file=sys.stderr)
    return 2 if found else serve(os.environ)


if __name__ == "__main__":
    sys.exit(main())
