"""The one writer and reader of MLflow: runs, metrics, fronts, models, the registry and the page that shows them."""

from dvt.tracking.address import check_tracking, resolve_tracking_uri, tracking_address
from dvt.tracking.errors import TrackingError, without_credentials
from dvt.tracking.git import CodeVersion, code_version
from dvt.tracking.model_package import ModelContent
from dvt.tracking.page import open_page, page_command, run_page, ui_command
from dvt.tracking.registry import ModelRecord, log_and_register_model
from dvt.tracking.run_checkpoints import log_checkpoints
from dvt.tracking.run_fronts import log_front
from dvt.tracking.run_inputs import log_data, log_environment
from dvt.tracking.runs import RunRecord, closed_as_it_ends, finish_run, log_artifacts, log_tags, open_run
from dvt.tracking.sink import MlflowSink, MlflowSinkFactory, all_handed_on, log_metrics

__all__ = [
    "CodeVersion",
    "MlflowSink",
    "MlflowSinkFactory",
    "ModelContent",
    "ModelRecord",
    "RunRecord",
    "TrackingError",
    "all_handed_on",
    "check_tracking",
    "closed_as_it_ends",
    "code_version",
    "finish_run",
    "log_and_register_model",
    "log_artifacts",
    "log_checkpoints",
    "log_data",
    "log_environment",
    "log_front",
    "log_metrics",
    "log_tags",
    "open_page",
    "open_run",
    "page_command",
    "resolve_tracking_uri",
    "run_page",
    "tracking_address",
    "ui_command",
    "without_credentials",
]
