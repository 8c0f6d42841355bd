import math

import pytest
import torch
from timm.data.random_erasing import RandomErasing

from dvt.config import AugmentConfig, LossConfig
from dvt.data.on_device import OnDevice, erase

MEAN, STD = (0.5, 0.25, 0.0), (0.5, 0.25, 1.0)
LABELS = torch.tensor([0, 1])


def on_device(**changes: float) -> OnDevice:
    values = {"mixup": 0, "cutmix": 0, "random_erasing": 0.0, **changes}
    return OnDevice(AugmentConfig(**values), LossConfig(label_smoothing=0), 2, MEAN, STD)


def test_bytes_are_normalised_by_hand() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8)[:, None, None].expand(2, 3, 4, 4)
    prepared, targets = on_device()(images, LABELS, 0)
    assert prepared.dtype == torch.float32
    assert prepared[1, :, 2, 3].tolist() == pytest.approx([-1, (0.2 - 0.25) / 0.25, 1])
    assert targets.tolist() == [[1, 0], [0, 1]]


def test_what_is_normalised_already_stays_as_it_is() -> None:
    images = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    prepared, _ = on_device(random_erasing=1.0)(images, LABELS, 0)
    assert torch.equal(prepared, images)


def test_bytes_are_left_alone_and_mixed_after_erasing() -> None:
    images = torch.full((2, 3, 32, 32), 100, dtype=torch.uint8)
    mixing = on_device(random_erasing=1.0, mixup=1.0)
    prepared, targets = mixing(images, LABELS, 3)
    assert (images == 100).all()
    again, _ = mixing(images, LABELS, 3)
    other, _ = mixing(images, LABELS, 4)
    assert torch.equal(prepared, again)
    assert not torch.equal(prepared, other)
    assert 0 < targets[0, 0] < 1
    assert prepared.unique().numel() > 1000  # noise of both


def _erased(seed: int, probability: float, count: int = 500, size: int = 32) -> torch.Tensor:
    images = torch.full((count, 1, size, size), math.inf)
    erase(images, probability, seed)
    return images


def test_a_share_of_images_is_erased_in_one_rectangle() -> None:
    images = _erased(0, 0.25)
    is_erased = images.isfinite().flatten(1).any(dim=1)
    assert is_erased.double().mean().item() == pytest.approx(0.25, abs=0.06)  # three deviations
    for image in images[is_erased][:, 0].isfinite():
        rows, columns = image.any(dim=1), image.any(dim=0)
        assert image.sum() == rows.sum() * columns.sum()  # a whole rectangle
        assert 0.01 < image.double().mean() < 0.36


def test_areas_and_noise_are_those_of_timm() -> None:
    images, theirs = _erased(1, 1.0), torch.full((500, 1, 32, 32), math.inf)
    RandomErasing(1.0, mode="pixel", device="cpu")(theirs)
    shares = [
        each.isfinite().flatten(1).double().mean(dim=1).quantile(torch.tensor([0.1, 0.5, 0.9]).double())
        for each in (images, theirs)
    ]
    torch.testing.assert_close(*shares, atol=0.04, rtol=0)
    noise = images[images.isfinite()]
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert noise.std().item() == pytest.approx(1, abs=0.02)


def test_nothing_is_erased_at_probability_0_and_all_at_1() -> None:
    assert not _erased(0, 0.0).isfinite().any()
    assert _erased(0, 1.0).isfinite().flatten(1).any(dim=1).all()


def test_global_generators_are_left_alone() -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    on_device(random_erasing=1.0)(torch.zeros((2, 3, 16, 16), dtype=torch.uint8), LABELS, 0)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_normalises_alike_and_erases_at_the_same_places() -> None:
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(8) % 2
    here, _ = on_device()(images, labels, 1)
    there, _ = on_device()(images.cuda(), labels.cuda(), 1)
    torch.testing.assert_close(there.cpu(), here)
    erased, again = (on_device(random_erasing=1.0)(images.cuda(), labels.cuda(), 1)[0].cpu() for _ in range(2))
    places, _ = on_device(random_erasing=1.0)(images, labels, 1)
    assert torch.equal(erased, again)
    assert ((erased - here).abs() > 1e-4).sum() == pytest.approx(((places - here).abs() > 1e-4).sum().item(), rel=0.01)
