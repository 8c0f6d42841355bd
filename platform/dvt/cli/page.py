"""`dvt page RUN`: opens MLflow's page on a run, starting MLflow's server where there is none."""

import argparse

from dvt.tracking import open_page, tracking_address


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
