import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dvt.config import AugmentConfig, ConfigError, DataConfig
from dvt.data import DataError, Skipped, eval_batches, open_data
from dvt.data.folder import FolderFiles, hold_out
from dvt.data.image_set import FileImages
from tests.unit.data.images import cascade, folder_config, plain, write_folder, write_image

SUFFIXES = ".bmp, .jpeg, .jpg, .pgm, .png, .ppm, .tif, .tiff, .webp"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "birds", {"owl": 10, "emu": 6, "hen": 8}, {"emu": 3, "hen": 2, "owl": 2})


def _listed(images: object) -> list[str]:
    assert isinstance(images, FileImages)
    assert isinstance(images.images, FolderFiles)
    return [images.images.files[index] for index in images.indices]


def _files(images: object) -> set[str]:
    return set(_listed(images))


def test_classes_are_sorted_and_sets_are_disjoint(root: Path) -> None:
    data = open_data(folder_config(root), cascade(3))
    assert data.class_names == ("emu", "hen", "owl")
    assert (len(data.train), len(data.calibration), len(data.test)) == (20, 4, 7)
    assert not _files(data.train) & _files(data.calibration)
    assert _files(data.train) | _files(data.calibration) == {str(file) for file in root.glob("train/*/*")}
    assert _files(data.test) == {str(file) for file in root.glob("val/*/*")}


def test_labels_follow_the_folder_names(root: Path) -> None:
    data = open_data(folder_config(root), cascade(3))
    for images in (data.train, data.calibration, data.test):
        named = [data.class_names[label] for label in images.read(range(len(images))).labels.tolist()]
        assert named == [Path(file).parent.name for file in _listed(images)]


def test_calibration_images_follow_the_seed(root: Path) -> None:
    first, again, other = (open_data(folder_config(root, seed=seed), cascade(3)) for seed in (0, 0, 1))
    assert _files(first.calibration) == _files(again.calibration) != _files(other.calibration)


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    share=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_hold_out_keeps_proportions_and_one_of_each_class(sizes: list[int], share: float, seed: int) -> None:
    labels = np.repeat(np.arange(len(sizes)), sizes)
    count = int(share * (len(labels) - len(sizes)))
    held = np.bincount(labels[hold_out(labels, count, seed)], minlength=len(sizes))
    assert held.sum() == count
    assert (held < sizes).all()
    if all(size > 1 for size in sizes) and count <= len(labels) / 2:  # no class is near its last image
        assert (abs(held - count / len(labels) * np.array(sizes)) < 1.51).all()


def test_batches_are_normalised_with_the_published_constants(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"a": 3}, {"a": 1})
    Image.new("RGB", (50, 40), (255, 0, 128)).save(root / "val/a/000.jpg", quality=100)
    data = open_data(folder_config(root, calibration_images=1), cascade(1))
    batch = data.test.read([0])
    assert batch.images.shape == (1, 3, 16, 16)
    assert batch.images.dtype == torch.float32
    expected = [(1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (128 / 255 - 0.406) / 0.225]
    assert batch.images[0].mean((1, 2)).tolist() == pytest.approx(expected, abs=0.03)


@pytest.mark.parametrize("suffix", ["png", "JPG", "webp", "bmp", "tif"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_any_format_and_mode_gives_the_channels_asked_for(tmp_path: Path, suffix: str, mode: str) -> None:
    root = write_folder(tmp_path, {"a": 3}, {"a": 0})
    image = root / f"val/a/x.{suffix}"
    write_image(image, mode=mode if suffix not in ("JPG", "webp") else "RGB")
    for chans in (1, 3):
        data = open_data(folder_config(root, calibration_images=1), cascade(1, in_chans=chans))
        assert data.test.read([0]).images.shape == (1, chans, 16, 16)
        assert len(data.mean) == len(data.std) == chans


def test_transparency_in_a_palette_is_read_without_a_warning(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"a": 3}, {"a": 0})
    write_image(root / "val/a/x.png", mode="P")
    with Image.open(root / "val/a/x.png") as image:
        image.save(root / "val/a/x.png", transparency=bytes(range(256)))
    assert len(open_data(folder_config(root, calibration_images=1), cascade(1)).test.read([0]).labels) == 1


@pytest.mark.parametrize("chans", [1, 3])
def test_full_augmentation_is_a_function_of_seed_epoch_and_index(root: Path, chans: int) -> None:
    augment = AugmentConfig(rand_augment="rand-m9-n4-mstd0.5-inc1", random_erasing=1.0)  # more of it than published
    train = open_data(folder_config(root, augment=augment), cascade(3, in_chans=chans)).train
    batches = [train.read(range(20), epoch=epoch, seed=1) for epoch in range(4)]
    assert not torch.equal(batches[0].images, batches[1].images)
    assert not torch.equal(batches[0].images, train.read(range(20), epoch=0, seed=2).images)
    assert torch.equal(train.read([7, 3], epoch=2, seed=1).images, batches[2].images[[7, 3]])


def test_augmentation_leaves_the_global_generators_alone(root: Path) -> None:
    train = open_data(folder_config(root), cascade(3)).train
    torch.manual_seed(1)
    random.seed(1)
    expected = float(torch.rand(())), random.random()
    torch.manual_seed(1)
    random.seed(1)
    train.read(range(4))
    assert (float(torch.rand(())), random.random()) == expected


def _damage(file: str, how: str) -> None:
    path = Path(file)
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-200])
    elif how == "zero bytes":
        path.write_bytes(b"")
    elif how == "not an image":
        path.write_text("<html>404 Not Found</html>")
    else:
        path.unlink()


DAMAGES = ["truncated", "zero bytes", "not an image", "gone"]


@pytest.mark.parametrize("how", DAMAGES)
def test_an_unreadable_training_image_is_replaced_by_the_next_and_reported(root: Path, how: str) -> None:
    data = open_data(folder_config(root, augment=plain()), cascade(3))
    train = data.train
    files = _listed(train)
    last = len(train) - 1
    _damage(files[last], how)
    _damage(files[0], how)
    batch = train.read([last, 2])
    reason = {"truncated": "truncated", "zero bytes": "empty", "not an image": "not_an_image", "gone": "not_read"}[how]
    assert batch.skipped == (Skipped(files[last], reason), Skipped(files[0], reason))
    assert [data.class_names[label] for label in batch.labels.tolist()] == [Path(files[i]).parent.name for i in (1, 2)]
    assert torch.equal(batch.images, train.read([last, 2]).images)


@pytest.mark.parametrize("how", DAMAGES)
def test_an_unreadable_test_image_is_an_error(root: Path, how: str) -> None:
    test = open_data(folder_config(root), cascade(3)).test
    files = _listed(test)
    _damage(files[3], how)
    why = {"zero bytes": "empty", "not an image": "not an image", "gone": "no such file or directory"}.get(how, how)
    with pytest.raises(DataError) as raised:
        list(eval_batches(test, shard=0, num_shards=1, batch_size=2, num_workers=0))
    assert str(raised.value) == f"{files[3]} cannot be read as an image ({why}); replace or remove it"


def test_nothing_but_unreadable_images_is_an_error(root: Path) -> None:
    train = open_data(folder_config(root), cascade(3)).train
    files = _listed(train)
    for file in files:
        _damage(file, "zero bytes")
    with pytest.raises(DataError) as raised:
        train.read([5])
    assert str(raised.value) == (
        f"{files[5]} and the training images after it, 20 in all, cannot be read as images; replace or remove them"
    )


def test_hidden_and_foreign_files_are_not_images(root: Path) -> None:
    (root / "train/owl/notes.txt").write_text("owls")
    (root / "train/.cache").mkdir()
    (root / "train/owl/.hidden.jpg").write_bytes(b"")
    assert len(open_data(folder_config(root), cascade(3)).train) == 20


def _config_error(root: Path, num_classes: int = 3, **changes: object) -> str:
    with pytest.raises(ConfigError) as raised:
        open_data(folder_config(root, **changes), cascade(num_classes))
    return str(raised.value)


def _data_error(root: Path) -> str:
    with pytest.raises(DataError) as raised:
        open_data(folder_config(root), cascade(3))
    return str(raised.value)


def test_root_must_be_named_and_be_a_folder(root: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        open_data(DataConfig(source="folder"), cascade(3))
    assert str(raised.value) == (
        "data.root must name an image folder for source folder, got null; add --data.root FOLDER"
    )
    gone, file = tmp_path / "gone", root / "train/owl/000.jpg"
    assert _config_error(gone) == f"data.root must name an image folder, got {gone}, which is not there"
    assert _config_error(file) == f"data.root must name an image folder, got {file}, which is not a folder"


def test_every_mistake_in_the_configuration_is_told_at_once(root: Path) -> None:
    assert _config_error(root, num_classes=1000, calibration_images=10_000) == (
        f"cascade.num_classes must be 3, the number of class folders in {root}/train, got 1000\n"
        "data.calibration_images must be at most 21, so that each of 3 classes keeps one of its 24 images in "
        f"{root}/train to train on, got 10000"
    )
    assert len(open_data(folder_config(root, calibration_images=21), cascade(3)).train) == 3


@pytest.mark.parametrize("policy", ["rand-m6-n4-tweights", "original", "augmix-m5-w4", "v0-mstd0.5", "3a"])
def test_timms_other_policies_are_known(root: Path, policy: str) -> None:
    data = open_data(folder_config(root, augment=AugmentConfig(rand_augment=policy)), cascade(3))
    assert data.train.read(range(4)).images.dtype == torch.uint8


@pytest.mark.parametrize("policy", ["rand-m9-foo7", "rand-mx", "nonsense", "rand-m9-mstd"])
def test_an_unknown_augmentation_policy_is_refused(root: Path, policy: str) -> None:
    assert _config_error(root, augment=AugmentConfig(rand_augment=policy)) == (
        f"data.augment.rand_augment must be a policy of timm such as rand-m9-mstd0.5-inc1, or null, got {policy!r}"
    )


def test_an_empty_folder(tmp_path: Path) -> None:
    assert (
        _data_error(tmp_path) == f"{tmp_path} is empty; put images into {tmp_path}/train/CLASS and {tmp_path}/val/CLASS"
    )


@pytest.mark.parametrize(("there", "missing"), [("train", "val"), ("val", "train")])
def test_a_part_that_is_missing(tmp_path: Path, there: str, missing: str) -> None:
    (tmp_path / there / "owl").mkdir(parents=True)
    assert _data_error(tmp_path) == (
        f"{tmp_path} has no folder {missing}; put images into {tmp_path}/train/CLASS and {tmp_path}/val/CLASS"
    )


def test_images_without_class_folders(tmp_path: Path) -> None:
    write_image(tmp_path / "train/000.jpg")
    (tmp_path / "val").mkdir()
    assert _data_error(tmp_path) == (
        f"{tmp_path}/train holds no class folders; put the images of each class into a folder {tmp_path}/train/CLASS"
    )


def test_a_class_in_val_that_train_lacks(root: Path) -> None:
    for name in ("yak", "cow", "ape", "fox"):
        write_image(root / f"val/{name}/000.jpg")
    assert _data_error(root) == (
        f"{root}/val holds class folders that {root}/train lacks: ape, cow, fox and 1 more; add them to train or "
        "remove them from val"
    )


def test_a_class_without_training_images(root: Path) -> None:
    (root / "train/yak").mkdir()
    (root / "train/yak/notes.txt").write_text("yaks")
    assert _data_error(root) == f"{root}/train/yak holds no images ({SUFFIXES}); add some or remove the folder"


def test_a_test_set_without_images(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"a": 3}, {"a": 0})
    assert _data_error(root) == f"{root}/val holds no images ({SUFFIXES}); put some into its class folders"


def test_one_image_a_class_leaves_nothing_to_calibrate_on(tmp_path: Path) -> None:
    root = write_folder(tmp_path, {"a": 1, "b": 1}, {"a": 1})
    assert _data_error(root) == (f"{root}/train holds one image a class, none to hold out for calibration; add images")


def test_fingerprints_follow_names_and_labels_wherever_the_root_is(root: Path, tmp_path: Path) -> None:
    def fingerprints(folder: Path) -> tuple[str, ...]:
        data = open_data(folder_config(folder), cascade(3))
        return data.train.fingerprint(), data.calibration.fingerprint(), data.test.fingerprint()

    before = fingerprints(root)
    assert len(set(before)) == 3
    moved = tmp_path / "elsewhere"
    shutil.copytree(root, moved)
    assert fingerprints(moved) == before
    first = min((moved / "val").rglob("*.*"))
    first.rename(first.with_stem("renamed"))
    assert fingerprints(moved)[:2] == before[:2]
    assert fingerprints(moved)[2] != before[2]
