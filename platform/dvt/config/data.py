"""Where images come from and how training images are varied: the recipe's section `data`.

The comment behind a field is its documentation: meaning, unit and range; `dvt train --help` prints it.
"""

from dataclasses import dataclass, field
from typing import Literal

from dvt.config.problems import Rules

MOST_PIXELS = 89_478_485  # of an image file; above it Pillow takes it for an attack on memory
# What a source whose images are known asks of the cascade.
FIXED_BY_SOURCE = {
    "embedded": {"in_chans": 1, "num_classes": 10},
    "cifar10": {"num_classes": 10},
    "cifar100": {"num_classes": 100},
}


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """How training images are varied; used by every source but `embedded`, mixing by that too."""

    crop_scale: tuple[float, float] = (0.08, 1.0)  # least and most area of the random crop, as a share of the image
    # in place of that crop: how far the whole image is moved at most, as a share of its side; 0 is the crop
    crop_padding: float = 0
    hflip: float = 0.5  # probability of a horizontal flip
    rand_augment: str | None = "rand-m9-mstd0.5-inc1"  # timm's RandAugment policy; null is none
    random_erasing: float = 0.25  # probability of erasing a rectangle with noise
    mixup: float = 0.8  # alpha of mixup; 0 is none
    cutmix: float = 1.0  # alpha of cutmix; 0 is none
    mix_prob: float = 1.0  # probability of mixing a batch at all
    switch_prob: float = 0.5  # probability of cutmix where both are on

    def __post_init__(self) -> None:
        rules = Rules()
        low, high = self.crop_scale
        rules.require(
            0 < low <= high <= 1,
            "crop_scale",
            f"must be two rising shares above 0 and at most 1, got {low:.15g}, {high:.15g}",
        )
        for name in ("hflip", "random_erasing", "mix_prob", "switch_prob"):
            rules.between(name, getattr(self, name), 0, 1)
        rules.between("crop_padding", self.crop_padding, 0, 0.5)
        for name in ("mixup", "cutmix"):
            rules.at_least(name, getattr(self, name), 0)
        rules.enforce()


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where images come from, and how they are split into train, calibration and test."""

    # digits shipped with scikit-learn, an image folder, shards packed here or elsewhere, or CIFAR's binary version
    source: Literal["embedded", "folder", "tar", "parquet", "cifar10", "cifar100"] = "folder"
    # path or s3:// address of train/CLASS/* and val/CLASS/*, of shards, or of CIFAR's files
    root: str | None = None
    calibration_images: int = 10_000  # images held out of train to choose thresholds on
    train_images: int = 8_192  # scenes an epoch; source embedded only
    test_images: int = 2_000  # scenes of the test set; source embedded only
    seed: int = 0  # seed of the held-out split and of the embedded scenes
    crop_pct: float = 0.875  # share of the resized side kept by the centre crop at evaluation
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"  # resampling at evaluation
    cache_dir: str | None = None  # folder on a local disk that keeps what is read from s3://; null keeps nothing
    cache_gib: float = 200.0  # most GiB of cache_dir, shared by all processes of a node, at least 1
    # what reads training batches: processes beside each training worker, or Ray tasks on any node's free cores
    engine: Literal["local", "ray"] = "local"
    # processes that read images, per training worker; 0 reads in the training process; for engine ray tasks of one core
    loader_workers: int = 4
    # order of training images, new each epoch: exact mixes all with all, window shuffles shards and mixes images within
    # a sliding window, so that each shard is read about once; auto is window where that matters, else exact
    shuffle: Literal["auto", "exact", "window"] = "auto"
    shuffle_window: int = 16_384  # images that are mixed at a time where the order is window
    shuffle_run: int = 1  # neighbours in a shard that stay together in that order, and come in one request
    eval_batch_size: int = 128  # images a batch at evaluation
    max_pixels: int = 2**26  # largest image file that is decoded; a larger one counts as unreadable
    augment: AugmentConfig = field(default_factory=AugmentConfig)  # how training images are varied

    def __post_init__(self) -> None:
        rules = Rules()
        for name in (
            *("calibration_images", "train_images", "test_images"),
            *("shuffle_window", "shuffle_run", "eval_batch_size"),
        ):
            rules.at_least(name, getattr(self, name), 1)
        for name in ("seed", "loader_workers"):
            rules.at_least(name, getattr(self, name), 0)
        rules.at_least("cache_gib", self.cache_gib, 1)
        rules.between("crop_pct", self.crop_pct, 0.1, 1)
        rules.require(
            1 <= self.max_pixels <= MOST_PIXELS,
            "max_pixels",
            f"must be from 1 to {MOST_PIXELS}, got {self.max_pixels}",
        )
        rules.require(
            self.engine == "local" or self.loader_workers != 0,
            "loader_workers",
            f"must be at least 1, the tasks that read for each worker, for engine {self.engine}, got 0",
        )
        rules.enforce()

    @property
    def root_told(self) -> str:
        """What `root` is to name, as a message says it."""
        kinds = {"folder": "an image folder", "tar": "a folder of shards", "parquet": "a folder of shards"}
        return f"{kinds.get(self.source, 'a folder or archive')} for source {self.source}"
