import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dvt.config import AugmentConfig, LossConfig
from dvt.data.mixing import Mixer


def _batch(size: int = 8) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(size, 1, 6, 6, generator=generator), torch.arange(size) % 5


@given(
    mixup=st.sampled_from([0.0, 0.8]),
    cutmix=st.sampled_from([0.0, 1.0]),
    mix_prob=st.sampled_from([0.0, 0.5, 1.0]),
    smoothing=st.floats(0, 0.9),
    seed=st.integers(0, 2**32 - 1),
)
def test_targets_sum_to_one(mixup: float, cutmix: float, mix_prob: float, smoothing: float, seed: int) -> None:
    config = AugmentConfig(mixup=mixup, cutmix=cutmix, mix_prob=mix_prob)
    images, labels = _batch()
    mixed, targets = Mixer(config, LossConfig(label_smoothing=smoothing), 5)(images, labels, seed)
    assert mixed.shape == images.shape
    assert targets.shape == (8, 5)
    assert targets.dtype == torch.float32
    torch.testing.assert_close(targets.sum(1), torch.ones(8))
    assert (targets >= 0).all()


def test_smoothed_one_hot_by_hand() -> None:
    images, _ = _batch(2)
    mixer = Mixer(AugmentConfig(mixup=0, cutmix=0), LossConfig(label_smoothing=0.1), 4)
    mixed, targets = mixer(images, torch.tensor([1, 3]), seed=0)
    assert mixed is images
    expected = torch.tensor([[0.025, 0.925, 0.025, 0.025], [0.025, 0.025, 0.025, 0.925]])
    torch.testing.assert_close(targets, expected)


def test_mixup_mixes_images_as_it_mixes_targets() -> None:
    images, labels = _batch()
    mixed, targets = Mixer(AugmentConfig(mixup=0.8, cutmix=0), LossConfig(label_smoothing=0), 5)(images, labels, 3)
    share = float(targets[0, labels[0]])
    assert 0 < share < 1
    torch.testing.assert_close(mixed, images * share + images.flip(0) * (1 - share))


def test_same_seed_same_mix_and_another_one_another() -> None:
    images, labels = _batch()
    mixer = Mixer(AugmentConfig(), LossConfig(), 5)
    first, again, other = (mixer(images, labels, seed) for seed in (7, 7, 8))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[1], other[1])


def test_images_and_global_generator_are_left_alone() -> None:
    images, labels = _batch()
    kept = images.clone()
    np.random.seed(1)  # noqa: NPY002  the global one is meant
    expected = np.random.rand()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    Mixer(AugmentConfig(), LossConfig(), 5)(images, labels, 0)
    assert torch.equal(images, kept)
    assert np.random.rand() == pytest.approx(expected, abs=0)  # noqa: NPY002
