"""Soft targets, and the mixing of pairs of images: mixup (Zhang et al. 2018) and CutMix (Yun et al. 2019), by timm.

Shapes: `B` batch, `C` classes.
"""

import torch
from timm.data.mixup import Mixup
from torch import Tensor

from dvt.config import AugmentConfig, LossConfig
from dvt.data.randomness import global_randomness_restored, seed_global_randomness


class Mixer:
    """Makes a batch of images and labels one of images and soft targets, mixed where the configuration asks for it."""

    def __init__(self, config: AugmentConfig, loss: LossConfig, num_classes: int) -> None:
        self.num_classes = num_classes
        self.label_smoothing = loss.label_smoothing
        self._mixup: Mixup | None = None
        if config.mix_prob > 0 and (config.mixup > 0 or config.cutmix > 0):
            self._mixup = Mixup(
                mixup_alpha=config.mixup,
                cutmix_alpha=config.cutmix,
                prob=config.mix_prob,
                switch_prob=config.switch_prob,
                label_smoothing=loss.label_smoothing,
                num_classes=num_classes,
            )

    def __call__(self, images: Tensor, labels: Tensor, seed: int) -> tuple[Tensor, Tensor]:
        """Mix a batch.

        Args:
            images: (B, channels, height, width); left as they are. B is even where mixing is on.
            labels: (B,) int64, on the device of the images.
            seed: Below 2**32, decides all that is random; `derive_seed` makes one of seed, step and rank.

        Returns:
            Images of the same shape, and targets (B, C) float32 whose rows sum to 1.
        """
        if self._mixup is None:
            return images, self._smoothed_one_hot(labels)
        with global_randomness_restored():  # Mixup draws from NumPy's global generator
            seed_global_randomness(seed)
            mixed, targets = self._mixup(images.clone(), labels)  # in place
        return mixed, targets

    def _smoothed_one_hot(self, labels: Tensor) -> Tensor:
        off = self.label_smoothing / self.num_classes
        targets = torch.full((len(labels), self.num_classes), off, device=labels.device)  # (B, C)
        return targets.scatter_(1, labels[:, None], 1 - self.label_smoothing + off)
