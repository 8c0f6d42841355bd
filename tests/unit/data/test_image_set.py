"""Image sets on any encoded images: which are read, how they come, and what takes the place of unreadable ones."""

import hashlib
import pickle
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from dvt.config import AugmentConfig, ConfigError, DataConfig
from dvt.data import DataError, Skipped
from dvt.data.encoded import EncodedImage
from dvt.data.image_set import FileImages
from dvt.inference.preparation import Preparation
from tests.unit.data.images import cascade, plain


@dataclass(eq=False)
class Contents:
    """Encoded images in memory."""

    contents: list[bytes]
    problem: str = ""  # of those without content

    @property
    def labels(self) -> NDArray[np.int64]:
        return np.arange(len(self.contents)) * 10

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(map(str, range(10 * len(self.contents))))

    @property
    def blocks(self) -> None:
        return None

    def __len__(self) -> int:
        return len(self.contents)

    def read(self, indices: Sequence[int]) -> list[EncodedImage]:
        problems = [self.problem if not self.contents[index] else "" for index in indices]
        return [
            EncodedImage(f"image {index}", self.contents[index], problem)
            for index, problem in zip(indices, problems, strict=True)
        ]

    def fingerprint(self) -> str:
        return hashlib.sha256(b"".join(self.contents)).hexdigest()


def jpeg(number: int, size: tuple[int, int] = (48, 36)) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    out = BytesIO()
    Image.fromarray(pixels).resize(size, 3).save(out, "JPEG", quality=95)
    return out.getvalue()


CONTENTS = Contents([jpeg(number) for number in range(8)])


def images(
    contents: Contents = CONTENTS, indices: Sequence[int] = range(8), *, is_training: bool = True, **changes: object
) -> FileImages:
    config = DataConfig(root="unused", **{"augment": plain(), **changes})
    return FileImages(contents, np.array(indices), config, cascade(80), is_training=is_training)


def test_training_images_are_bytes_with_their_labels() -> None:
    some = images(indices=[1, 3, 5, 7])
    batch = some.read([2, 0])
    assert len(some) == 4
    assert batch.images.dtype == torch.uint8
    assert batch.images.shape == (2, 3, 16, 16)
    assert batch.images.is_contiguous(memory_format=torch.channels_last)  # as decoding and resizing make pixels
    assert batch.labels.tolist() == [50, 10]
    assert batch.skipped == ()
    picture = Image.open(BytesIO(CONTENTS.contents[5]))
    both = [np.asarray(picture.resize((16, 16), resample)).astype(int) for resample in (2, 3)]
    ours = batch.images[0].permute(1, 2, 0).numpy()
    assert min(np.abs(ours - each).max() for each in both) <= 1


def test_a_batch_may_be_put_together_in_memory_that_is_given() -> None:
    some = images()
    out = some.empty(2)
    assert out is not None
    batch = some.read([2, 0], out=out)
    assert batch.images is out
    assert torch.equal(out, some.read([2, 0]).images)
    assert images(is_training=False).empty(2) is None  # of its own, as float32


@pytest.mark.parametrize(("count", "num_bytes"), [(1, 2**20), (3, 2**20), (16, 2 * 48 * 36 * 3), (16, 1)])
def test_images_do_not_depend_on_how_many_are_decoded_at_a_time(
    count: int, num_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = images(augment=AugmentConfig())
    expected = some.read(range(8), epoch=2).images
    monkeypatch.setattr("dvt.data.image_set.DECODED_IMAGES", count)
    monkeypatch.setattr("dvt.data.image_set.DECODED_BYTES", num_bytes)
    assert torch.equal(some.read(range(8), epoch=2).images, expected)


@pytest.mark.parametrize("chans", [1, 3])
def test_evaluation_gives_the_very_numbers_of_the_served_model(chans: int) -> None:
    config = DataConfig(root="unused", crop_pct=0.8, interpolation="bilinear")
    test = FileImages(CONTENTS, np.arange(8), config, cascade(80, in_chans=chans), is_training=False)
    batch = test.read([6, 2])
    mean, std = {1: ((0.459,), (0.226,)), 3: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))}[chans]
    served = Preparation(in_chans=chans, image_size=16, mean=mean, std=std, crop_pct=0.8, interpolation="bilinear")
    assert batch.images.dtype == torch.float32
    assert torch.equal(batch.images, served([CONTENTS.contents[6], CONTENTS.contents[2]]))
    assert batch.labels.tolist() == [60, 20]


def test_all_that_is_random_follows_from_seed_epoch_and_index() -> None:
    some = images(augment=AugmentConfig())
    whole = some.read(range(8), epoch=2, seed=1)
    assert torch.equal(some.read([7, 3], epoch=2, seed=1).images, whole.images[[7, 3]])
    assert torch.equal(pickle.loads(pickle.dumps(some)).read([4], epoch=2, seed=1).images, whole.images[4:5])  # noqa: S301
    for epoch, seed in ((3, 1), (2, 2)):
        assert not torch.equal(some.read(range(8), epoch=epoch, seed=seed).images, whole.images)


BAD = {
    "empty": b"",
    "not_an_image": b"<html>",
    "truncated": jpeg(0)[:-300],
    "too_many_pixels": jpeg(0, (60, 50)),
}


@pytest.mark.parametrize("reason", BAD)
def test_an_unreadable_training_image_is_replaced_by_the_next_of_the_set(reason: str) -> None:
    contents = Contents([jpeg(0), BAD[reason], jpeg(2), jpeg(3), BAD[reason]])
    some = images(contents, [3, 1, 4, 0], max_pixels=48 * 36)
    batch = some.read([1, 0, 2])
    assert batch.labels.tolist() == [0, 30, 0]  # in place of 1: after 4, which does not read either, 0
    first, second = Skipped("image 1", reason), Skipped("image 4", reason)
    assert batch.skipped == (first, second, second)


def test_what_the_source_could_not_read_is_replaced_too() -> None:
    contents = Contents([jpeg(0), b""], problem="no such file or directory")
    batch = images(contents, [0, 1]).read([1])
    assert batch.skipped == (Skipped("image 1", "not_read"),)
    assert batch.labels.tolist() == [0]


@pytest.mark.parametrize("reason", BAD)
def test_an_unreadable_test_image_is_an_error_that_says_why(reason: str) -> None:
    some = images(Contents([BAD[reason]]), [0], is_training=False, max_pixels=48 * 36)
    with pytest.raises(DataError) as raised:
        some.read([0])
    why = reason.replace("_", " ")
    assert str(raised.value) == f"image 0 cannot be read as an image ({why}); replace or remove it"


def test_nothing_but_unreadable_images_is_an_error() -> None:
    with pytest.raises(DataError) as raised:
        images(Contents([b"", b"", b""]), [2, 1, 0]).read([1])
    assert str(raised.value) == (
        "image 1 and the training images after it, 3 in all, cannot be read as images; replace or remove them"
    )


def test_a_policy_that_is_none_is_refused_on_opening() -> None:
    with pytest.raises(ConfigError, match=r"data\.augment\.rand_augment must be a policy of timm"):
        images(augment=AugmentConfig(rand_augment="nonsense"))


@pytest.mark.parametrize("limit", [0, 89_478_486])
def test_the_limit_of_pixels_has_limits(limit: int) -> None:
    with pytest.raises(ConfigError) as raised:
        DataConfig(root="unused", max_pixels=limit)
    assert str(raised.value) == f"max_pixels must be from 1 to 89478485, got {limit}"


def test_fingerprints_tell_images_and_choices_apart() -> None:
    prints = {
        images(contents, indices).fingerprint()
        for contents in (CONTENTS, Contents([jpeg(9)]))
        for indices in ([0], [1])
    }
    assert len(prints) == 4
    assert images().fingerprint() == images(is_training=False).fingerprint()
