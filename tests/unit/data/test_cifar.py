import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from dvt.config import AugmentConfig, ConfigError, DataConfig
from dvt.data import DataSets, ImageSet, cifar_files, open_data
from dvt.data.cifar import CifarImages, open_cifar
from dvt.data.image_set import FileImages
from dvt.data.transforms import MEAN, STD
from tests.unit.data.cifar import SMALL10, pixel, write_archive, write_folder
from tests.unit.data.images import cascade

STILL = AugmentConfig(crop_padding=1e-9, hflip=0, rand_augment=None, random_erasing=0)  # padding rounds to none


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("cifar") / "ten", SMALL10)


def _config(root: Path, **changes: object) -> DataConfig:
    values: dict[str, object] = {"source": "cifar10", "root": str(root), "calibration_images": 20, "crop_pct": 1.0}
    return DataConfig(**{**values, **changes})


def _opened(root: Path, **changes: object) -> DataSets:
    image_size = changes.pop("image_size", 32)
    return open_cifar(SMALL10, str(root), _config(root, **changes), cascade(10, image_size=image_size))


def _numbers(images: ImageSet) -> list[int]:
    assert isinstance(images, FileImages)
    return images.indices.tolist()


def _stored(images: ImageSet, index: int) -> np.ndarray:
    """(3, 32, 32), as in the file."""
    assert isinstance(images, FileImages)
    assert isinstance(images.images, CifarImages)
    return images.images.part.pixels[images.indices[index]]


def _shown(image: torch.Tensor) -> np.ndarray:
    """Pixels from 0 to 255 of a training image, or of a normalised one."""
    if image.dtype == torch.uint8:
        return image.numpy()
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN[3], STD[3]))
    return (image * std + mean).mul(255).round().to(torch.uint8).numpy()


def test_the_training_files_are_split_and_the_test_file_is_the_test(root: Path) -> None:
    data = _opened(root)
    assert (len(data.train), len(data.calibration), len(data.test)) == (20, 20, 20)
    train, calibration = _numbers(data.train), _numbers(data.calibration)
    assert sorted(train + calibration) == list(range(40))
    held_out = np.bincount(np.array(calibration) % 10, minlength=10)
    assert held_out.tolist() == [2] * 10  # of four images of each class
    assert data.class_names == tuple(f"class {label}" for label in range(10))
    assert (data.mean, data.std) == (MEAN[3], STD[3])
    assert _numbers(_opened(root, seed=1).train) != train


def test_a_test_image_of_its_own_size_is_as_in_the_file(root: Path) -> None:
    batch = _opened(root).test.read([7])
    shown = _shown(batch.images[0])
    for channel, row, column in ((0, 0, 0), (1, 9, 30), (2, 31, 31)):
        assert shown[channel, row, column] == pixel(47, channel, row, column)
    assert batch.labels.tolist() == [47 % 10]
    assert batch.skipped == ()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_images_are_up_sampled_whole_the_same_way_for_training_and_evaluation(root: Path, interpolation: str) -> None:
    data = _opened(root, interpolation=interpolation, augment=STILL, image_size=48)
    for images in (data.train, data.test):
        stored = _stored(images, 3).transpose(1, 2, 0)
        method = Image.Resampling[interpolation.upper()]
        expected = np.asarray(Image.fromarray(stored).resize((48, 48), method)).transpose(2, 0, 1)
        difference = np.abs(_shown(images.read([3]).images[0]).astype(int) - expected)
        assert difference.max() <= (1 if images is data.train else 0)  # torch rounds otherwise than Pillow


def test_padding_moves_the_image_and_brings_in_black(root: Path) -> None:
    augment = replace(STILL, crop_padding=0.125)  # 4 of 32 pixels
    images = _opened(root, augment=augment).train
    places = set()
    for epoch in range(40):
        shown = _shown(images.read([5], epoch=epoch).images[0])
        padded = np.pad(_stored(images, 5), ((0, 0), (4, 4), (4, 4)))
        found = [
            (top, left)
            for top in range(9)
            for left in range(9)
            if np.array_equal(shown, padded[:, top : top + 32, left : left + 32])
        ]
        assert len(found) == 1
        places.add(found[0])
    assert len(places) > 20  # of 81
    assert {0, 8} <= {top for top, _ in places} & {left for _, left in places}


def test_a_flip_is_drawn(root: Path) -> None:
    still, flipped = (_opened(root, augment=replace(STILL, hflip=share)).train.read([5]).images for share in (0, 1))
    assert torch.equal(still.flip(-1), flipped)


def test_augmentation_follows_from_seed_epoch_and_index_alone(root: Path) -> None:
    train = pickle.loads(pickle.dumps(_opened(root, image_size=16).train))  # noqa: S301  made here
    one, other = train.read([3, 8], epoch=1, seed=2), train.read([8, 4, 3], epoch=1, seed=2)
    assert torch.equal(one.images[0], other.images[2])
    assert torch.equal(one.images[1], other.images[0])
    assert not torch.equal(one.images, train.read([3, 8], epoch=2, seed=2).images)
    assert not torch.equal(one.images, train.read([3, 8], epoch=1, seed=3).images)


def test_grey_models_get_grey_images(root: Path) -> None:
    data = open_cifar(SMALL10, str(root), _config(root), cascade(10, image_size=32, in_chans=1))
    assert data.test.read([0, 1]).images.shape == (2, 1, 32, 32)
    assert data.mean == MEAN[1]


def test_fingerprints_tell_parts_and_splits_apart_and_not_places(root: Path, tmp_path: Path) -> None:
    data = _opened(root)
    parts = {images.fingerprint() for images in (data.train, data.calibration, data.test)}
    assert len(parts) == 3
    elsewhere = _opened(write_archive(tmp_path / "x.tar.gz", SMALL10))
    assert elsewhere.train.fingerprint() == data.train.fingerprint()
    assert _opened(root, seed=1).train.fingerprint() != data.train.fingerprint()


def test_what_does_not_fit_is_refused(root: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        open_cifar(SMALL10, str(root), _config(root, calibration_images=31), cascade(100))
    assert str(raised.value).splitlines() == [
        "cascade.num_classes must be 10, the number of classes in CIFAR-10, got 100",
        (
            "data.calibration_images must be at most 30, so that each of 10 classes keeps one of its 40 images in "
            "CIFAR-10 to train on, got 31"
        ),
    ]


def test_a_recipe_opens_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cifar_files.LAYOUTS, "cifar10", SMALL10)
    monkeypatch.setenv("HOME", str(root.parent))
    data = open_data(_config(Path("~/ten")), cascade(10))
    assert len(data.train) == 20
    with pytest.raises(ConfigError) as raised:
        open_data(replace(_config(root), root=None), cascade(10))
    assert str(raised.value) == (
        "data.root must name a folder or archive for source cifar10, got null; add --data.root FOLDER"
    )
