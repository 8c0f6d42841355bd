"""The served model, as MLflow's "model from code": MLflow copies this file into the model and runs it to load one.

Nothing is pickled: weights are safetensors, everything else is YAML and JSON. It needs the core of this package only
(`config`, `models`, `exits`, `inference`), which lies beside it in the model, and so no Ray and no installed `dvt`.

Input: images as an array (B, c, height, width), float32 in [0, 1], not normalised; or a list, a column `image` of a
DataFrame or a field `image` of a dict, which holds for each image the bytes of a file, their base64 text, or an array
(c, height, width). Output: one row an image. Parameters, at most one of them: `budget_macs`, mean multiply-adds an
image that may be spent, -1 for all stages on every image; `budget_ms`, mean milliseconds an image on the device that
runs it; `thresholds`, the confidence to leave with, for each exit but the last. Without any the model's own budget
counts.

Shapes: B batch, c image channels, E exits.
"""

import json
import math
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray
from safetensors.torch import load_file

from dvt.config import ConfigError, Problem, cascade_from_yaml
from dvt.exits import ThresholdTable
from dvt.inference import Budget, EarlyExit, measure_latency, profile_of, read_profiles, thresholds_within
from dvt.inference.latency import QUICK_BATCH_SIZES, QUICK_REPEATS
from dvt.inference.preparation import Preparation
from dvt.models import Cascade, macs_per_exit
from dvt.models.checksums import check_files

ALL_STAGES = -1.0  # the `budget_macs` that closes every exit but the last
COLUMN = "image"
_BATCH = 128  # images that run together; bounds memory, whatever the request


class RequestError(MlflowException, ValueError):
    """What was asked cannot be answered; one sentence, which MLflow's server hands on with status 400."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, error_code=INVALID_PARAMETER_VALUE)
        self.sentence = sentence

    def serialize_as_json(self) -> str:
        """The answer's body; MLflow 3.17 would put all the images that were sent before the sentence."""
        return json.dumps({"error_code": self.error_code, "message": self.sentence})


class ServedCascade(PythonModel):
    """A cascade that leaves early within a budget chosen for each request."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the model's files.

        Raises:
            ChecksumError: If a file is not the one that was registered.
        """
        files = {name: Path(path) for name, path in context.artifacts.items()}
        folder = files["weights"].parent
        check_files(folder)
        serving = json.loads(files["serving"].read_text(encoding="utf-8"))
        self.thresholds = ThresholdTable.from_dict(json.loads(files["thresholds"].read_text(encoding="utf-8")))
        self.class_names: list[str] = serving["class_names"]
        self.default_budget_macs: float = serving["default_budget_macs"]
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.cascade = Cascade(cascade_from_yaml(files["cascade"].read_text(encoding="utf-8")))
        self.cascade.load_state_dict(load_file(files["weights"]))
        self.cascade.to(self.device).eval()
        self.macs = tuple(map(float, macs_per_exit(self.cascade.config)))
        self.prepare = Preparation(
            in_chans=self.cascade.config.in_chans,
            image_size=self.cascade.config.image_size,
            mean=tuple(serving["mean"]),
            std=tuple(serving["std"]),
            crop_pct=serving["crop_pct"],
            interpolation=serving["interpolation"],
        )
        self.profiles = read_profiles(folder)
        self._measuring = threading.Lock()

    # MLflow makes a schema of any type hint but a few, and would refuse all other kinds of images.
    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Classify images.

        Args:
            context: MLflow's; not used.
            model_input: Images, see above.
            params: `budget_macs`, `budget_ms` or `thresholds`, see above.

        Returns:
            Columns `label`, `class_name`, `prob` (the label's probability), `confidence` (by the thresholds' measure),
            `exit_index` (from 1, as people count exits) and `macs` (what the image cost), one row an image.

        Raises:
            RequestError: If the images or the parameters are not as stated, or the budget cannot be kept.
        """
        try:
            return self._classified(_images(model_input, self.prepare.in_chans), self._budget(params or {}))
        except ConfigError as error:
            raise RequestError("; ".join(map(str, error.problems))) from error

    def _classified(self, images: Sequence[Any], budget: Budget) -> pd.DataFrame:
        seconds = None if budget.budget_ms is None else self._seconds_per_exit()
        thresholds = thresholds_within(budget, self.thresholds, self.macs, seconds)
        engine = EarlyExit(self.cascade, thresholds, self.thresholds.confidence)
        parts = []
        for start in range(0, len(images), _BATCH):
            result = engine(self.prepare(images[start : start + _BATCH], start).to(self.device))
            columns = (result.label, result.probs.amax(dim=1), result.confidence, result.exit_index)
            parts.append([column.cpu().numpy() for column in columns])
        label, prob, confidence, exit_index = map(np.concatenate, zip(*parts, strict=True))
        return pd.DataFrame(
            {
                "label": label,
                "class_name": [self.class_names[index] for index in label],
                "prob": prob,
                "confidence": confidence,
                "exit_index": exit_index + 1,
                "macs": np.array(self.macs)[exit_index],
            }
        )

    def _budget(self, params: Mapping[str, Any]) -> Budget:
        """What a request may spend; the model's own budget if it says nothing."""
        thresholds = params.get("thresholds")
        if thresholds is not None:  # an empty list is MLflow's way to say none
            thresholds = tuple(math.nan if each is None else float(each) for each in thresholds) or None
        budget = Budget(budget_macs=params.get("budget_macs"), budget_ms=params.get("budget_ms"), thresholds=thresholds)
        if budget == Budget():
            return Budget(budget_macs=self.default_budget_macs)
        return Budget() if budget.budget_macs == ALL_STAGES else budget

    def _seconds_per_exit(self) -> tuple[float, ...]:
        """What stages take on this device; measured now if nobody did before."""
        with self._measuring:  # a second request would disturb it, and has the answer when it is done
            profile = profile_of(self.profiles, self.device)
            if profile is None:
                profile = measure_latency(self.cascade, QUICK_BATCH_SIZES, QUICK_REPEATS)
                self.profiles = (*self.profiles, profile)
        return profile.seconds_per_exit()


def _images(given: Any, in_chans: int) -> Sequence[Any]:
    """The images of a request, one by one, of whatever kind.

    Raises:
        ConfigError: If there are none.
    """
    if isinstance(given, Mapping | pd.DataFrame):
        if COLUMN not in given:
            told = ", ".join(map(str, given)) or "none"
            raise ConfigError([Problem("images", f"must be in a column named {COLUMN}, got {told}")])
        given = given[COLUMN]
    rule = (
        f"must be image files, their base64 text or an array of shape (batch, {in_chans}, height, width), "
        f"at least one, got "
    )
    if isinstance(given, str | bytes | bytearray | memoryview):
        return [given]
    if isinstance(given, list | tuple | pd.Series):
        images: list[Any] = list(given)
    else:
        array: NDArray[Any] = np.asarray(given)
        if array.ndim not in (1, 4):
            raise ConfigError([Problem("images", f"{rule}shape {array.shape}")])
        images = list(array)
    if not images:
        raise ConfigError([Problem("images", f"{rule}none")])
    return images


set_model(ServedCascade())
