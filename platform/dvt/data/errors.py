"""What is wrong with images on disk, as opposed to what a person typed (`ConfigError`)."""

from collections import Counter
from collections.abc import Collection

from dvt.data.sets import Skipped

MAX_SKIPPED_SHARE = 0.001  # of the training images; more than that is a broken copy, not an accident
SKIPPED = "data/skipped_images"  # the metric that counts them


class DataError(RuntimeError):
    """Images cannot be used; the message is one sentence that names the folder or file and what to do."""


def count_skipped(skipped: Collection[Skipped]) -> dict[str, float]:
    """The number of training images that could not be read, in all and by reason, as metrics of the run."""
    reasons = Counter(reason for _, reason in set(skipped))
    counts = {f"{SKIPPED}/{reason}": float(count) for reason, count in sorted(reasons.items())}
    return {SKIPPED: float(len({image.name for image in skipped}))} | counts


def check_skipped(skipped: Collection[Skipped], num_images: int) -> None:
    """Accept a few training files that could not be read, and no more.

    Args:
        skipped: What could not be read, as batches told; an image told twice counts once.
        num_images: Number of images of the training set.

    Raises:
        DataError: If more than 0.1 % of the training images could not be read.
    """
    files = sorted({image.name for image in skipped})
    if len(files) <= MAX_SKIPPED_SHARE * num_images:
        return
    first, them = ("the first is", "them") if len(files) > 1 else ("it is", "it")
    raise DataError(
        f"{len(files)} of {num_images} training images ({len(files) / num_images:.2%}) could not be read, "
        f"more than the {MAX_SKIPPED_SHARE:.1%} that is let pass; {first} {files[0]}; replace or remove {them}"
    )
