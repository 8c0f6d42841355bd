"""MLflow's server as a team runs it, by infra/mlflow/serve.py: on PostgreSQL, artifacts in a bucket, with users."""

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from dvt.tracking import TrackingError, check_tracking
from tests.integration.cluster import ROOT, free_port
from tests.integration.postgres_server import Postgres
from tests.integration.s3_server import S3Server

SERVE = ROOT / "infra" / "mlflow" / "serve.py"
ADMIN = "keeper"
START_TIMEOUT_S = 120


@dataclass
class TeamServer:
    """The server; `user` and `password` are the administrator's."""

    postgres: Postgres
    s3: S3Server
    bucket: str
    folder: Path
    port: int = field(default_factory=free_port)
    password: str = field(default_factory=lambda: secrets.token_hex(12))
    secret_key: str = field(default_factory=lambda: secrets.token_hex(32))
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder / "server.log"

    def env(self) -> dict[str, str]:
        """The settings of `serve.py`, and nothing that leads to another MLflow or bucket."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "MLFLOW_", "DVT_"))}
        return {
            **kept,
            **self.s3.env,
            "MLFLOW_S3_ENDPOINT_URL": self.s3.endpoint,
            "MLFLOW_BACKEND_STORE_URI": self.postgres.uri,
            "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{self.bucket}/team",
            "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN,
            "MLFLOW_AUTH_ADMIN_PASSWORD": self.password,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": self.secret_key,
            "MLFLOW_HOST": "127.0.0.1",
            "MLFLOW_PORT": str(self.port),
            "MLFLOW_WORKERS": "1",
            "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{self.port},mlflow.example",  # as a proxy before it is called
            "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "https://mlflow.example",
            "DVT_MLFLOW_DEFAULT_PERMISSION": "NO_PERMISSIONS",
        }

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, str(SERVE)],
                cwd=self.folder,
                env=self.env(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < end:
            assert self.process.poll() is None, self.log.read_text()
            try:
                check_tracking(self.uri, timeout_s=5)
                raise AssertionError("the server let someone in without a name")
            except TrackingError as error:
                if "refuses access" in str(error):
                    return
            time.sleep(0.3)
        raise AssertionError(self.log.read_text())

    def stop(self) -> None:
        """End it as a container is ended; whatever is left is killed."""
        if self.process is None or self.process.poll() is not None:
            return
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        finally:
            _, alive = psutil.wait_procs(family, timeout=5)
            for process in alive:
                process.kill()
            self.process.kill()
            self.process.wait()
            self.process = None


def as_user(name: str, password: str) -> Mapping[str, str]:
    """The environment of a client."""
    return {"MLFLOW_TRACKING_USERNAME": name, "MLFLOW_TRACKING_PASSWORD": password}
