import hashlib
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

import dvt
from dvt.config import CascadeConfig, ConfigError, DataConfig, StageConfig
from dvt.data import DataSets, open_data
from dvt.data.digits import _enlarge, split_sources

SOURCE_ROOT = Path(dvt.__file__).parents[1]


def _cascade(**changes: object) -> CascadeConfig:
    values: dict[str, object] = {"image_size": 24, "in_chans": 1, "num_classes": 10}
    return CascadeConfig(**{**values, "stages": (StageConfig(token_grid=3),), **changes})


def _open(**changes: object) -> DataSets:
    values: dict[str, object] = {"source": "embedded", "train_images": 64, "calibration_images": 30, "test_images": 20}
    return open_data(DataConfig(**{**values, **changes}), _cascade())


def test_sets_have_the_sizes_asked_for() -> None:
    data = _open()
    assert (len(data.train), len(data.calibration), len(data.test)) == (64, 30, 20)
    assert data.class_names == tuple("0123456789")


def test_a_batch_is_normalised_grey_scenes() -> None:
    data = _open(train_images=2048)
    batch = data.train.read(range(2048))
    assert batch.images.shape == (2048, 1, 24, 24)
    assert batch.images.dtype == torch.float32
    assert batch.labels.dtype == torch.int64
    assert set(batch.labels.tolist()) == set(range(10))
    assert batch.skipped == ()
    pixels = batch.images * data.std[0] + data.mean[0]
    assert pixels.min() == pytest.approx(0, abs=1e-6)
    assert pixels.max() == pytest.approx(1, abs=1e-6)
    assert float(batch.images.mean()) == pytest.approx(0, abs=0.05)
    assert float(batch.images.std()) == pytest.approx(1, abs=0.05)


def test_every_source_digit_is_in_one_part_and_every_class_in_each() -> None:
    parts = split_sources(seed=0)
    together = np.concatenate(list(parts.values()))
    assert sorted(together.tolist()) == list(range(1797))
    labels = load_digits().target
    for part, share in {"train": 0.7, "calibration": 0.1, "test": 0.2}.items():
        counts = np.bincount(labels[parts[part]])
        assert (abs(counts - share * np.bincount(labels)) <= 1).all()


def test_another_seed_splits_and_composes_differently() -> None:
    assert not np.array_equal(split_sources(0)["test"], split_sources(1)["test"])
    assert not torch.equal(_open(seed=0).test.read([0]).images, _open(seed=1).test.read([0]).images)


def test_training_scenes_are_fresh_each_epoch_and_the_others_stay() -> None:
    data = _open()
    assert not torch.equal(data.train.read(range(8)).images, data.train.read(range(8), epoch=1).images)
    for part in (data.calibration, data.test):
        assert torch.equal(part.read(range(8)).images, part.read(range(8), epoch=1, seed=4).images)


def test_parts_show_different_scenes() -> None:
    data = _open()
    assert not torch.equal(data.calibration.read(range(8)).images, data.test.read(range(8)).images)


def test_a_scene_does_not_depend_on_what_it_is_read_with() -> None:
    train = _open().train
    together, alone = train.read([5, 63, 0], epoch=2), train.read([63], epoch=2)
    assert torch.equal(together.images[1:2], alone.images)


DIGEST = """
import hashlib
from dvt.config import CascadeConfig, DataConfig, StageConfig
from dvt.data import open_data
cascade = CascadeConfig(image_size=24, in_chans=1, num_classes=10, stages=(StageConfig(token_grid=3),))
config = DataConfig(source="embedded", train_images=64, calibration_images=30, test_images=20)
data = open_data(config, cascade)
batch = data.train.read(range(64), epoch=3)
print(hashlib.sha256(batch.images.numpy().tobytes() + batch.labels.numpy().tobytes()).hexdigest())
"""


def test_scenes_are_the_same_in_another_process() -> None:
    command = [sys.executable, "-c", DIGEST]
    output = subprocess.run(command, capture_output=True, text=True, check=True, env={"PYTHONPATH": str(SOURCE_ROOT)})
    batch = _open().train.read(range(64), epoch=3)
    expected = hashlib.sha256(batch.images.numpy().tobytes() + batch.labels.numpy().tobytes()).hexdigest()
    assert output.stdout.strip() == expected


def test_enlarging_by_hand() -> None:
    ramp = np.array([[[0, 16], [0, 16]]])
    # Centres of 4 pixels over 2 lie at -1/4, 1/4, 3/4 and 5/4; the outer ones are held at the edge.
    assert _enlarge(ramp, 4)[0].tolist() == [[0, 64, 191, 255]] * 4
    assert _enlarge(ramp, 2)[0].tolist() == [[0, 255]] * 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"in_chans": 3}, "cascade.in_chans must be 1 for data.source embedded, got 3"),
        ({"num_classes": 7}, "cascade.num_classes must be 10 for data.source embedded, got 7"),
        ({"image_size": 12}, "cascade.image_size must be at least 16 for data.source embedded, got 12"),
    ],
)
def test_a_cascade_for_other_images_is_refused(changes: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        open_data(DataConfig(source="embedded"), _cascade(**changes))
    assert str(raised.value) == message


def test_fingerprints_tell_seeds_and_sizes_apart() -> None:
    def fingerprints(**changes: object) -> set[str]:
        data = _open(**changes)
        return {data.train.fingerprint(), data.calibration.fingerprint(), data.test.fingerprint()}

    assert len(fingerprints()) == 3
    assert fingerprints() == fingerprints()
    assert not fingerprints() & fingerprints(seed=7)
