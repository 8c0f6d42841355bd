"""What is taken for granted of images, and what cannot be."""

from dataclasses import replace

import pytest

from dvt.config import AugmentConfig, ConfigError, DataConfig, Recipe
from dvt.models import VARIANTS
from dvt.train.plan_hardware import Assumptions, usual
from tests.unit.train.tiny import RECIPE


def recipe_of(**data: object) -> Recipe:
    return Recipe(name="a", data=DataConfig(root="none", **data), cascade=VARIANTS["dvt_t2t_vit_14"])


def test_imagenet_with_and_without_rand_augment() -> None:
    assert usual(recipe_of()) == {
        "other_ms": 0.54,
        "launch_ms": pytest.approx(165),
        "cores_per_gpu": 4,
        "train_images": 1_271_167,  # 10,000 are held out
        "images_per_core_s": 384,
    }
    plain = AugmentConfig(rand_augment=None)
    assert usual(recipe_of(augment=plain, loader_workers=0)) == {
        "other_ms": 0.54,
        "launch_ms": pytest.approx(165),
        "cores_per_gpu": 1,  # the training process reads
        "train_images": 1_271_167,
        "images_per_core_s": 625,
    }


def test_fewer_blocks_have_less_to_launch() -> None:
    one = replace(VARIANTS["dvt_t2t_vit_14"], stages=VARIANTS["dvt_t2t_vit_14"].stages[-1:])
    assert usual(replace(recipe_of(), cascade=one))["launch_ms"] == pytest.approx(55)


def test_scenes_were_not_measured() -> None:
    found = usual(RECIPE)
    assert found["train_images"] == 8192
    assert "images_per_core_s" not in found


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("utilisation", 0.0, "--utilisation must be greater than 0 and at most 1, got 0"),
        ("network_efficiency", 1.5, "--network-efficiency must be greater than 0 and at most 1, got 1.5"),
        ("jitter", -1.0, "--jitter must be at least 0, got -1"),
        ("disk_mb_s", 0.0, "--disk-mb-s must be greater than 0, got 0"),
        ("launch_ms", float("inf"), "--launch-ms must be a finite number, got inf"),
    ],
)
def test_what_cannot_be_taken_for_granted(name: str, value: float, rule: str) -> None:
    with pytest.raises(ConfigError) as told:
        Assumptions(**usual(recipe_of()) | {name: value})
    assert str(told.value) == rule
