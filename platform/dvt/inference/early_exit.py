"""Really leaving early: images that are confident leave, the others go on to the next stage, compacted.

"Budgeted batch" classification of Wang et al., "Not All Images are Worth 16x16 Words", NeurIPS 2021, section 3.1. The
published code only simulates it: it runs every exit on every image. Here a stage sees only the images that no earlier
exit was sure of, and gives the same numbers as `Cascade.forward`.

Shapes: E exits, B batch, b images that are still undecided, c image channels, S image side, C classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dvt.exits import PLAIN, Confidence
from dvt.models import Cascade


@dataclass(frozen=True, eq=False)
class EarlyExitResult:
    """What became of each image, in the order of the input."""

    logits: Tensor  # (B, C), unnormalised, of the exit taken
    confidence: Tensor  # (B,), how sure the exit taken is, by the engine's measure; float32
    label: Tensor  # (B,), most probable class, int64
    exit_index: Tensor  # (B,), exit taken, int64, from 0 to E - 1


class EarlyExit:
    """Classifies batches and spends on each image no more stages than it needs.

    Args:
        cascade: The model; it is put into evaluation mode.
        thresholds: (E,); an image leaves at the first exit with confidence >= threshold. +inf closes an exit; the last
            is -inf, because the last exit takes what is left.
        confidence: What the thresholds are of; the largest probability if none is given.

    Raises:
        ValueError: If the thresholds are not as stated, or there are temperatures of another number of exits.
    """

    def __init__(self, cascade: Cascade, thresholds: Sequence[float], confidence: Confidence = PLAIN) -> None:
        num_exits = cascade.config.num_exits
        if len(thresholds) != num_exits:
            raise ValueError(f"thresholds must hold one number for each of {num_exits} exits, got {len(thresholds)}")
        if any(math.isnan(threshold) for threshold in thresholds):
            raise ValueError(f"thresholds must be numbers or infinite, got {', '.join(map(str, thresholds))}")
        if thresholds[-1] != -math.inf:
            raise ValueError(
                f"thresholds must end with -inf, because the last exit takes what is left, got {thresholds[-1]}"
            )
        confidence.check(num_exits)
        self.confidence = confidence
        self.cascade = cascade.eval()
        self.thresholds = tuple(float(threshold) for threshold in thresholds)

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> EarlyExitResult:
        """Classify a batch.

        Args:
            images: Normalised images, (B, c, S, S), on the device of the cascade; B may be 0.

        Returns:
            One row an image, in the order of `images`. A stage that no image reaches does not run.
        """
        result = self._empty_result(len(images), images.device)
        undecided = torch.arange(len(images), device=images.device)  # (b,), positions in the batch
        upstream = None
        for stage_index, threshold in enumerate(self.thresholds):
            if len(undecided) == 0:
                break
            upstream = self.cascade.stage(stage_index, images[undecided], upstream)
            confidence = self.confidence(upstream.logits, stage_index)  # (b,)
            is_last = stage_index == len(self.thresholds) - 1  # takes even what has no number for a confidence
            leaves = torch.ones_like(confidence, dtype=torch.bool) if is_last else confidence.double() >= threshold
            gone = undecided[leaves]
            result.logits[gone] = upstream.logits[leaves].float()
            result.confidence[gone] = confidence[leaves]
            result.label[gone] = upstream.logits[leaves].argmax(dim=-1)
            result.exit_index[gone] = stage_index
            undecided, upstream = undecided[~leaves], upstream.select(~leaves)
        return result

    def _empty_result(self, num_images: int, device: torch.device) -> EarlyExitResult:
        def per_image(dtype: torch.dtype) -> Tensor:
            return torch.zeros(num_images, dtype=dtype, device=device)

        return EarlyExitResult(
            logits=torch.zeros(num_images, self.cascade.num_classes, device=device),
            confidence=per_image(torch.float32),
            label=per_image(torch.int64),
            exit_index=per_image(torch.int64),
        )
