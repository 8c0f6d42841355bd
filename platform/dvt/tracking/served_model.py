"""The served model, as MLflow's "model from code": MLflow copies this file into the model and runs it to load one.

Nothing is pickled: weights are safetensors, everything else is YAML and JSON. It needs the core of this package only
(`config`, `models`, `exits`, `inference`), which lies beside it in the model, and so no Ray and no installed `dvt`.

Input: images of shape (B, c, S, S), float32 in [0, 1], not normalised. Output: one row an image. Parameter
`budget_macs`: mean multiply-adds an image that may be spent; -1 runs all stages on every image.

Shapes: B batch, c image channels, S image side, E exits.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

from dvt.config import cascade_from_yaml
from dvt.exits import Thresholds, ThresholdTable, single_exit_thresholds
from dvt.inference import EarlyExit
from dvt.models import Cascade, macs_per_exit

ALL_STAGES = -1.0  # the `budget_macs` that closes every exit but the last
_BATCH = 128  # images that run together; bounds memory, whatever the request


class ServedCascade(PythonModel):
    """A cascade that leaves early within a budget chosen for each request."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the model's files."""
        files = {name: Path(path) for name, path in context.artifacts.items()}
        serving = json.loads(files["serving"].read_text(encoding="utf-8"))
        self.thresholds = ThresholdTable.from_dict(json.loads(files["thresholds"].read_text(encoding="utf-8")))
        self.class_names: list[str] = serving["class_names"]
        self.default_budget_macs: float = serving["default_budget_macs"]
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.mean, self.std = (self._per_channel(serving[name]) for name in ("mean", "std"))
        self.cascade = Cascade(cascade_from_yaml(files["cascade"].read_text(encoding="utf-8")))
        self.cascade.load_state_dict(load_file(files["weights"]))
        self.cascade.to(self.device).eval()

    def predict(self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Classify images.

        Args:
            context: MLflow's; not used.
            model_input: (B, c, S, S), values from 0 to 1.
            params: `budget_macs`, see above.

        Returns:
            Columns `label`, `class_name`, `confidence` (by the thresholds' measure), `exit_index` (from 1, as people
            count exits) and `macs` (what the image cost), one row an image.

        Raises:
            ValueError: If the images are not as stated, or the budget is below the first exit's cost.
        """
        images = self._checked(np.asarray(model_input, dtype=np.float32))
        budget_macs = float((params or {}).get("budget_macs", self.default_budget_macs))
        engine = EarlyExit(self.cascade, self._thresholds(budget_macs), self.thresholds.confidence)
        columns: dict[str, list[NDArray[Any]]] = {"label": [], "confidence": [], "exit_index": []}
        for start in range(0, len(images), _BATCH):
            batch = torch.from_numpy(images[start : start + _BATCH]).to(self.device)
            result = engine((batch - self.mean) / self.std)
            for name, parts in columns.items():
                parts.append(getattr(result, name).cpu().numpy())
        label, confidence, exit_index = (np.concatenate(parts) for parts in columns.values())
        macs = np.array(macs_per_exit(self.cascade.config), dtype=np.float64)  # (E,)
        return pd.DataFrame(
            {
                "label": label,
                "class_name": [self.class_names[index] for index in label],
                "confidence": confidence,
                "exit_index": exit_index + 1,
                "macs": macs[exit_index],
            }
        )

    def _thresholds(self, budget_macs: float) -> Thresholds:
        if budget_macs == ALL_STAGES:
            num_exits = self.thresholds.num_exits
            return single_exit_thresholds(num_exits, num_exits - 1)
        return self.thresholds.at_budget(budget_macs).thresholds

    def _checked(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        config = self.cascade.config
        shape = (config.in_chans, config.image_size, config.image_size)
        if images.ndim != 4 or images.shape[1:] != shape or len(images) == 0:
            told = ", ".join(map(str, shape))
            raise ValueError(f"images must have shape (batch, {told}) with at least one image, got {images.shape}")
        least, most = images.min(), images.max()
        if not (least >= 0 and most <= 1):
            raise ValueError(f"images must hold values from 0 to 1, got {least:g} to {most:g}; divide bytes by 255")
        return images

    def _per_channel(self, values: list[float]) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=self.device).view(1, -1, 1, 1)


set_model(ServedCascade())
