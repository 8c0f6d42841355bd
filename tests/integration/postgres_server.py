"""A real PostgreSQL for tests: a cluster of its own in a temporary folder, on a free port of loopback."""

import contextlib
import os
import pwd
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.integration.cluster import free_port
from tests.integration.programs import needed_program

USER, DATABASE = "dvt", "mlflow"


@dataclass(frozen=True)
class Postgres:
    """Where the server answers, and to whom."""

    port: int
    password: str

    @property
    def uri(self) -> str:
        return f"postgresql://{USER}:{self.password}@127.0.0.1:{self.port}/{DATABASE}"


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    """The server, while the context lasts; it ends with all its files."""
    beside = sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    programs = {name: needed_program(name, "postgresql", beside) for name in ("initdb", "pg_ctl", "createdb")}
    folder = Path(tempfile.mkdtemp(prefix="dvt-pg-"))
    server = Postgres(free_port(), secrets.token_hex(16))
    secret = folder / "password"
    secret.write_text(server.password)
    owner = None
    if os.geteuid() == 0:  # PostgreSQL refuses to run as root
        owner = "postgres"
        user = pwd.getpwnam(owner)
        for path in (folder, secret):
            os.chown(path, user.pw_uid, user.pw_gid)

    def run(name: str, *words: str, **env: str) -> None:
        with (folder / "log").open("a") as log:
            done = subprocess.run(
                [str(programs[name]), *words],
                user=owner,
                cwd=folder,
                env=os.environ | env,
                stdout=log,
                stderr=log,
                check=False,
            )
        assert done.returncode == 0, (folder / "log").read_text()

    data = str(folder / "data")
    try:
        run("initdb", "-D", data, "-U", USER, "-A", "scram-sha-256", f"--pwfile={secret}", "-E", "UTF8", "--no-sync")
        settings = f"-c port={server.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        run("pg_ctl", "-D", data, "-w", "-l", str(folder / "server.log"), "-o", settings, "start")
        try:
            where = ("-h", "127.0.0.1", "-p", str(server.port), "-U", USER)
            run("createdb", *where, DATABASE, PGPASSWORD=server.password)
            yield server
        finally:
            run("pg_ctl", "-D", data, "-w", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
