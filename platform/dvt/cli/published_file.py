"""What the published code saves: weights, and what was measured with them.

A file holds `model_state_dict`, `flops`, `dynamic_threshold`, and perhaps `anytime_classification`, the top-1 accuracy
of each exit in percent; or the state dict alone. Costs are counted here, so `flops` is not read.

Shapes: E exits.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvt.exits import ThresholdTable
from dvt.exits.threshold_table import numbers_in
from dvt.models import Cascade, WeightsError, load_published
from dvt.models.weights import read_weights_file

WEIGHTS, THRESHOLDS, TOP1 = "model_state_dict", "dynamic_threshold", "anytime_classification"


@dataclass(frozen=True)
class PublishedFile:
    """A file of the published code, read."""

    path: Path
    sha256: str
    content: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> "PublishedFile":
        """Read a file without running any code in it.

        Raises:
            WeightsError: If it cannot be read, or holds more than tensors, numbers, texts and containers.
        """
        content = read_weights_file(path)
        if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
            raise WeightsError(f"{path} must hold entries by their names, got {type(content).__name__}; save a dict")
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        return cls(path, digest, content if WEIGHTS in content else {WEIGHTS: content})

    @property
    def has_thresholds(self) -> bool:
        """Whether the file tells thresholds."""
        return self.content.get(THRESHOLDS) is not None

    def cascade(self) -> Cascade:
        """The cascade that the weights are of, in evaluation mode.

        Raises:
            WeightsError: Listing every difference from the published layout.
        """
        state_dict = self.content[WEIGHTS]
        if not isinstance(state_dict, Mapping):
            raise self._named(f"{WEIGHTS} must be a state dict, got {type(state_dict).__name__}")
        try:
            return load_published(state_dict)
        except WeightsError as error:
            raise self._named(error) from error

    def thresholds(self, macs: Sequence[float]) -> ThresholdTable:
        """The file's thresholds by what they cost, or leaving at one exit alone where it has none.

        Args:
            macs: (E,), cumulative multiply-adds of leaving at each exit.

        Raises:
            WeightsError: If the thresholds are not as the published code writes them.
        """
        if not self.has_thresholds:
            return ThresholdTable.of_single_exits(macs)
        try:
            return ThresholdTable.of_published(self.content[THRESHOLDS], macs)
        except WeightsError as error:
            raise self._named(error) from error

    def top1(self, num_exits: int) -> tuple[float, ...]:
        """(E,) accuracies from 0 to 1 that the file tells of its exits, or none.

        Raises:
            WeightsError: If they are not one share in percent for each exit.
        """
        told = self.content.get(TOP1)
        if told is None:
            return ()
        rule = f"{TOP1} must hold one top-1 accuracy in percent for each of {num_exits} exits"
        try:
            percent = numbers_in(told)
        except ValueError as error:
            raise self._named(f"{rule}, got something else ({error})") from error
        if percent.shape != (num_exits,) or not ((percent >= 0) & (percent <= 100)).all():
            raise self._named(f"{rule}, got {', '.join(f'{value:g}' for value in percent.ravel()) or 'none'}")
        return tuple(float(share) for share in percent / 100)

    def _named(self, problem: object) -> WeightsError:
        return WeightsError(f"{self.path}: {problem}")
