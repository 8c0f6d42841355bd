"""The recipe of a registered version: that of the run it came from, as the run's `config.yaml` holds it."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from dvt.config import ConfigError, Recipe, load_recipe, yaml_text
from dvt.tracking.errors import TrackingError, one_sentence
from dvt.tracking.lookup import no_progress_bars
from dvt.tracking.runs import CONFIG_FILE


def recipe_of_version(uri: str, name: str, version: str, overrides: Sequence[str] = ()) -> Recipe:
    """What a registered version was trained with.

    Args:
        uri: The tracking address.
        name: Of the registered model.
        version: Its number.
        overrides: Words of a command line to put over it, such as `--data.root FOLDER`.

    Raises:
        ConfigError: If an override is none.
        TrackingError: If the version has no run, or the run tells no recipe.
    """
    told = f"version {version} of {name}"
    with one_sentence(f"read the recipe of {told}", uri):
        run_id = MlflowClient(tracking_uri=uri).get_model_version(name, version).run_id
    text = _config_of(uri, run_id) if run_id else None
    if text is None:
        source = f"run {run_id} without {CONFIG_FILE}" if run_id else "no run"
        raise TrackingError(
            f"{told} must come from a run that tells its recipe, got {source}; register its checkpoint with "
            "dvt register"
        )
    try:
        tree = yaml_text.parse_fields(text, CONFIG_FILE)
        load_recipe(tree)
    except ConfigError as error:
        reason = error.problems[0]
        raise TrackingError(f"{CONFIG_FILE} of run {run_id} must be a recipe, but {reason}") from error
    return load_recipe(tree, overrides)


def _config_of(uri: str, run_id: str) -> str | None:
    """The text of a run's `config.yaml`; None where there is none."""
    client = MlflowClient(tracking_uri=uri)
    with one_sentence(f"hand over {CONFIG_FILE} of run {run_id}", uri), TemporaryDirectory(prefix="dvt-") as scratch:
        try:
            names = {file.path for file in client.list_artifacts(run_id)}
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        if CONFIG_FILE not in names:
            return None
        with no_progress_bars():
            return Path(client.download_artifacts(run_id, CONFIG_FILE, scratch)).read_text(encoding="utf-8")
