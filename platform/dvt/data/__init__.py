"""Where images come from: data sets in three disjoint parts, augmentation, and batches that can be resumed anywhere."""

from dvt.data.errors import DataError, check_skipped, count_skipped
from dvt.data.loader import batches_per_epoch, eval_batches, train_batches, train_indices, warn_of_too_many_readers
from dvt.data.on_device import OnDevice
from dvt.data.prefetch import prefetched
from dvt.data.randomness import derive_seed
from dvt.data.sets import Batch, DataSets, ImageSet, Skipped
from dvt.data.sources import open_data

__all__ = [
    "Batch",
    "DataError",
    "DataSets",
    "ImageSet",
    "OnDevice",
    "Skipped",
    "batches_per_epoch",
    "check_skipped",
    "count_skipped",
    "derive_seed",
    "eval_batches",
    "open_data",
    "prefetched",
    "train_batches",
    "train_indices",
    "warn_of_too_many_readers",
]
