"""`dvt page RUN`: opens MLflow's page on a run, starting MLflow's server where there is none."""

import argparse
from dataclasses import replace

from dvt.config import ConfigError
from dvt.tracking import open_page, resolve_tracking_uri


def main(words: list[str]) -> int:
    """Open the page; stays until Ctrl-C where it had to start a server."""
    parser = argparse.ArgumentParser(prog="dvt page", description="Open MLflow's page on a run.")
    parser.add_argument("run_id", help="the MLflow run, as `dvt train` printed it")
    parser.add_argument(
        "--tracking-uri",
        help="MLflow server or SQLite file; without it MLFLOW_TRACKING_URI, else runs/mlflow.db",
    )
    parser.add_argument("--port", type=int, help="port of a server that has to be started; without it a free one")
    parser.add_argument("--no-browser", action="store_true", help="only print the address")
    asked = parser.parse_args(words)
    open_page(
        tracking_address(asked.tracking_uri),
        asked.run_id,
        show=lambda url: print(f"{url}\nCtrl-C ends it.", flush=True),
        port=asked.port,
        browser=not asked.no_browser,
    )
    return 0


def tracking_address(asked: str | None) -> str:
    """The tracking address that counts where `--tracking-uri` is `asked`.

    Raises:
        ConfigError: If it is of a kind that MLflow's client cannot use.
    """
    try:
        return resolve_tracking_uri(asked, "runs")
    except ConfigError as error:  # speaks of a recipe's field; here it is a flag
        if asked is None:
            raise
        raise ConfigError(replace(problem, path="--tracking-uri") for problem in error.problems) from error
