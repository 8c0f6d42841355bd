"""Parts, flips and RandAugment on bytes, against timm and Pillow."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data.transforms import RandomResizedCropAndInterpolation
from torch.nn import functional as F

from dvt.config import AugmentConfig, DataConfig
from dvt.data.augmenting import Augmenter, as_picture, draw_part, of_picture, resize
from dvt.data.batch_memory import empty_batch
from tests.unit.data.images import cascade

PIXELS = np.asarray(
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((120, 90), 3)
).copy()

PARTS = [(slice(0, 90), slice(0, 120)), (slice(11, 70), slice(20, 93)), (slice(3, 9), slice(5, 12))]


def augment(pixels: np.ndarray, seed: int = 0, **changes: object) -> torch.Tensor:
    values = {"crop_scale": (1.0, 1.0), "hflip": 0.0, "rand_augment": None, **changes}
    augmenter = Augmenter(DataConfig(root="unused", augment=AugmentConfig(**values)), cascade(3))
    out = torch.zeros((pixels.shape[2], 16, 16), dtype=torch.uint8)
    augmenter.into(out, pixels, random.Random(seed))
    return out


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("part", PARTS)
def test_bytes_are_resized_as_pillow_resizes_them(interpolation: str, part: tuple[slice, slice]) -> None:
    out = empty_batch(1, 3, 32)[0]
    resize(PIXELS[part], out, interpolation)
    ours = out.permute(1, 2, 0).numpy()
    resample = Image.Resampling[interpolation.upper()]
    theirs = np.asarray(Image.fromarray(PIXELS[part].copy()).resize((32, 32), resample))
    assert np.abs(ours.astype(int) - theirs).max() <= 1
    planes = torch.from_numpy(PIXELS[part].copy()).permute(2, 0, 1)[None]
    assert torch.equal(out[None], F.interpolate(planes, size=(32, 32), mode=interpolation, antialias=True))


def _moments(values: list[float]) -> tuple[float, ...]:
    return tuple(np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist())


@pytest.mark.parametrize("size", [(375, 500), (500, 375), (224, 224)])
def test_parts_are_drawn_as_timm_draws_them(size: tuple[int, int]) -> None:
    height, width = size
    image, generator = Image.new("L", (width, height)), random.Random(1)
    state = random.getstate()
    random.seed(2)
    theirs = [RandomResizedCropAndInterpolation.get_params(image, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(4000)]
    random.setstate(state)
    drawn = [draw_part(height, width, (0.08, 1.0), generator) for _ in range(4000)]
    ours = [
        (rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start) for rows, columns in drawn
    ]
    for one, other in zip(zip(*ours, strict=True), zip(*theirs, strict=True), strict=True):
        assert _moments(one) == pytest.approx(_moments(other), abs=0.04 * max(size))
    assert all(rows.stop <= height and columns.stop <= width for rows, columns in drawn)


def test_of_an_image_too_long_for_any_part_the_centre_is_taken() -> None:
    generator = random.Random(0)
    assert draw_part(10, 1000, (0.9, 1.0), generator) == (slice(0, 10), slice(493, 506))  # 13 wide: 4/3 of 10
    assert draw_part(1000, 9, (0.9, 1.0), generator) == (slice(494, 506), slice(0, 9))  # 12 high: 9 over 3/4
    assert draw_part(1, 1, (0.08, 0.09), generator) == (slice(0, 1), slice(0, 1))


def test_flips_come_as_often_as_asked_for_and_mirror_the_columns() -> None:
    square = PIXELS[:, :90]
    upright = augment(square)
    filters = {tuple(augment(square, seed).flatten().tolist()) for seed in range(20)}
    assert len(filters) == 2  # bilinear and bicubic
    varied = [augment(square, seed, hflip=0.3) for seed in range(400)]
    flips = sum((each.float() - upright).abs().mean().item() > 8 for each in varied)
    assert flips / 400 == pytest.approx(0.3, abs=0.07)  # three deviations
    for seed in range(20):
        assert torch.equal(augment(square, seed).flip(-1), augment(square, seed, hflip=1.0))


@pytest.mark.parametrize("chans", [1, 3])
def test_pictures_of_pillow_hold_the_same_pixels(chans: int) -> None:
    part = torch.from_numpy(PIXELS[:20, :30, :chans]).permute(2, 0, 1)
    picture = as_picture(part)
    assert picture.size == (30, 20)
    assert np.array_equal(np.asarray(picture).reshape(20, 30, chans), PIXELS[:20, :30, :chans])
    assert torch.equal(of_picture(picture), part)


def test_rand_augment_is_timms_own() -> None:
    """Of each image timm's policy, with what it draws from seeded alike, is what is done to the part."""
    augmenter = Augmenter(DataConfig(root="unused", augment=AugmentConfig(crop_scale=(1, 1), hflip=0)), cascade(3))
    policy = augmenter.policy
    assert policy is not None
    described = str(policy)
    assert described.count("AugmentOp") == 15
    assert described.count("p=0.5, m=9, mstd=0.5") == 15
    assert "PosterizeIncreasing" in described
    assert "n=2" in described
    plain, varied = (
        [augment(PIXELS, seed, rand_augment=policy) for seed in range(200)] for policy in (None, "rand-m9-mstd0.5-inc1")
    )
    changed = sum(not torch.equal(one, other) for one, other in zip(plain, varied, strict=True))
    assert 0.6 < changed / 200 < 0.85  # three in four have at least one of two operations; a few change nothing


def test_the_same_seed_gives_the_same_image() -> None:
    options = {"crop_scale": (0.08, 1.0), "hflip": 0.5, "rand_augment": "rand-m9-n4-mstd0.5-inc1"}
    first, again, other = (augment(PIXELS, seed, **options) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
