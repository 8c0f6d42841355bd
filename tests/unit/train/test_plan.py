"""A plan worked by hand, and beside what one GPU took (docs/planning.md)."""

from dataclasses import replace

import pytest

from dvt.config import ConfigError, DataConfig, Recipe, TrainConfig
from dvt.models import VARIANTS
from dvt.models.size import count_parameters
from dvt.train.plan import (
    Nodes,
    checkpoint_bytes,
    exchange_exposed_s,
    expected_maximum,
    image_s,
    memory_bytes,
    overlapped_s,
    plan_epoch,
    read_per_s,
    savings,
    scales,
    training_macs,
)
from dvt.train.plan_hardware import GPUS, Assumptions, Gpu, usual
from tests.unit.train.tiny import CASCADE, RECIPE, change


def published(variant: str, micro_batch_size: int) -> Recipe:
    train = TrainConfig(micro_batch_size=micro_batch_size, ema_decay=0.99996)
    return Recipe(name=variant, data=DataConfig(root="none"), cascade=VARIANTS[variant], train=train)


TINY = change(RECIPE, train={"micro_batch_size": 2}, data={"calibration_images": 2})
MEGABYTES = 16 * count_parameters(CASCADE) / 1e6  # weights, average and two moments
SECOND_AN_IMAGE = Gpu(tflops=2 * training_macs(TINY) / 1e12, memory_gb=1, link_gb_s=1e9)
PLAIN = Assumptions(
    utilisation=1,
    other_ms=0,
    launch_ms=0,
    jitter=0,
    network_gbit_s=1e12,
    link_latency_us=0,
    network_latency_us=0,
    cores_per_gpu=1,
    images_per_core_s=0.5,
    image_kb=1,
    storage_gbit_s=1,
    disk_mb_s=MEGABYTES,
    upload_mb_s=MEGABYTES / 20,
    train_images=9,
)


def test_an_epoch_worked_by_hand() -> None:
    epoch = plan_epoch(TINY, Nodes(nodes=1, gpus=2, gpu=SECOND_AN_IMAGE), PLAIN)
    assert (epoch.steps, epoch.images) == (2, 8)  # of 9 images, 4 a step
    assert epoch.parts == pytest.approx(
        {
            "GPU": 4,  # two steps of two images
            "launches": 0,
            "stragglers": 0,
            "gradients": 0,
            "images": 2 * (4 - 2) + 4,  # two images take 4 s to read, and nothing is there for the first step
            "measuring": 2,  # an image each: read in 2 s, computed in 1/3 s
            "checkpoint": 1 + 20 - 8,  # written; uploaded in 20 s, of which training covers 8
        },
        abs=1e-6,
    )
    assert epoch.seconds == pytest.approx(27)
    assert epoch.images_per_s == pytest.approx(8 / 27)
    assert epoch.ranked[:3] == ("checkpoint", "images", "GPU")


def test_what_limits_is_what_saves_most_and_not_what_takes_most() -> None:
    place = Nodes(nodes=1, gpus=2, gpu=SECOND_AN_IMAGE)
    saved = savings(TINY, place, PLAIN)
    assert list(saved)[:2] == ["checkpoint", "images"]
    # Half of it: 0.5 s to write, and 10 s to upload, of which training covers 8, in place of 13 s.
    assert saved["checkpoint"] == pytest.approx(10.5 / 27, abs=1e-6)
    assert saved["measuring"] == pytest.approx(1 / 27, abs=1e-6)
    # Two images are computed in 2 s and launched in 2.1, read in 2.4: reading limits, though it adds least.
    readers = replace(PLAIN, launch_ms=2100.0, images_per_core_s=1 / 1.2, disk_mb_s=1e9, upload_mb_s=1e9)
    epoch = plan_epoch(TINY, place, replace(readers, train_images=4000))
    assert epoch.ranked[0] == "GPU"
    slow = replace(readers, train_images=4000, images_per_core_s=0.7)
    assert plan_epoch(TINY, place, slow).ranked[0] == "GPU"
    assert next(iter(savings(TINY, place, slow))) == "images"


def test_checkpoints_within_an_epoch_take_time_and_meet_one_another() -> None:
    place, given = Nodes(nodes=1, gpus=2, gpu=SECOND_AN_IMAGE), replace(PLAIN, cores_per_gpu=100.0, train_images=40)
    steps = 10  # of 2 s
    for every, count in ((None, 1), (10, 1), (5, 2), (3, 4)):
        epoch = plan_epoch(change(TINY, train={"checkpoint_every_steps": every}), place, given)
        assert epoch.steps == steps
        assert epoch.checkpoint_s == pytest.approx(count * (1 + max(0, 20 - 2 * steps / count)), abs=0.1)


def test_accumulation_takes_as_many_micro_batches() -> None:
    recipe, readers = change(TINY, train={"grad_accum_steps": 2}), replace(PLAIN, cores_per_gpu=100.0)
    epoch = plan_epoch(recipe, Nodes(nodes=1, gpus=1, gpu=SECOND_AN_IMAGE), readers)
    assert (epoch.steps, epoch.images, epoch.computing_s) == (2, 8, pytest.approx(8))


def test_launches_and_stragglers_take_time_too() -> None:
    given = replace(PLAIN, launch_ms=2000.0, jitter=0.1, cores_per_gpu=100.0)
    epoch = plan_epoch(TINY, Nodes(nodes=1, gpus=2, gpu=SECOND_AN_IMAGE), given)
    micro_s = 2 * 2**0.25  # launching as long as computing
    assert epoch.launching_s == pytest.approx(2 * (micro_s - 2))
    assert epoch.stragglers_s == pytest.approx(2 * micro_s * 0.1 * expected_maximum(2))


def test_nothing_hides_the_last_bucket() -> None:
    place = Nodes(nodes=2, gpus=1, gpu=SECOND_AN_IMAGE)
    given = replace(PLAIN, network_gbit_s=8e-3, network_efficiency=0.5)  # half a megabyte a second
    gradients = 4 * count_parameters(CASCADE)  # less than the first bucket: all wait for the end
    assert gradients < 2**20
    assert exchange_exposed_s(TINY, place, given, 100.0) == pytest.approx(gradients / 0.5e6)
    assert exchange_exposed_s(TINY, Nodes(nodes=1, gpus=1, gpu=SECOND_AN_IMAGE), given, 100.0) == 0


def test_gpus_of_a_node_share_its_storage() -> None:
    given = replace(PLAIN, images_per_core_s=1e9)
    assert read_per_s(Nodes(nodes=3, gpus=4, gpu=SECOND_AN_IMAGE), given) == pytest.approx(1e9 / 8 / 1e3 / 4)


def test_more_gpus_than_images_of_a_step() -> None:
    with pytest.raises(ConfigError) as told:
        plan_epoch(TINY, Nodes(nodes=3, gpus=2, gpu=SECOND_AN_IMAGE), PLAIN)
    assert str(told.value) == (
        "--nodes x --gpus must leave an image of the 9 for each of 6 GPUs x 2, got 3 x 2; use fewer, or a smaller "
        "train.micro_batch_size"
    )


def test_multiply_adds_become_seconds() -> None:
    recipe, given = published("dvt_deit_small", 64), replace(PLAIN, utilisation=0.5, other_ms=2.0)
    assert training_macs(recipe) == 3 * 8_800_629_120
    slow = Gpu(tflops=989, memory_gb=80, link_gb_s=450, slowness=3)
    assert image_s(recipe, slow, given) == pytest.approx(2 * 3 * 8_800_629_120 / (989e12 * 0.5) + 3 * 0.002)


def test_the_mean_of_launching_and_computing() -> None:
    assert overlapped_s(0.0, 3.0) == 3
    assert overlapped_s(3.0, 3.0) == pytest.approx(3 * 2**0.25)
    assert overlapped_s(1.0, 2.0) == overlapped_s(2.0, 1.0) == pytest.approx(17**0.25)


def test_the_largest_of_many() -> None:
    assert expected_maximum(1) == 0
    assert expected_maximum(2) == pytest.approx(0.5642, abs=0.03)  # 1 / sqrt(pi)
    assert expected_maximum(100) == pytest.approx(2.5076, abs=0.01)  # tables of order statistics


def test_a_checkpoint_keeps_the_average_where_there_is_one() -> None:
    assert checkpoint_bytes(TINY) == 16 * count_parameters(CASCADE)
    assert checkpoint_bytes(change(TINY, train={"ema_decay": None})) == 12 * count_parameters(CASCADE)


def test_scales_keep_the_nodes() -> None:
    found = scales(Nodes(nodes=4, gpus=8, gpu=SECOND_AN_IMAGE))
    assert [(each.nodes, each.gpus) for each in found] == [(2**power, 8) for power in range(8)]
    small = scales(Nodes(nodes=4, gpus=16, gpu=SECOND_AN_IMAGE), most=32)
    assert [(each.nodes, each.gpus) for each in small] == [(1, 8), (1, 16), (2, 16)]
    odd = scales(Nodes(nodes=2, gpus=6, gpu=SECOND_AN_IMAGE), most=50)
    assert [(each.nodes, each.gpus) for each in odd] == [(1, 6), (2, 6), (4, 6), (8, 6)]


# Images a second and GiB of one step on one GPU, torch 2.11, medians.
MEASURED = [
    ("dvt_t2t_vit_12", 256, "h200", 1174, 16.30),  # between two machines, 1,095 and 1,252
    ("dvt_t2t_vit_12", 512, "h100", 1336, 32.14),
    ("dvt_t2t_vit_14", 64, "h200", 374, 7.49),
    ("dvt_t2t_vit_14", 512, "h100", 914, 51.07),
    ("dvt_t2t_vit_14", 512, "h200", 1012, 51.06),
    ("dvt_deit_small", 512, "h100", 1313, 38.49),
]


@pytest.mark.parametrize(("variant", "batch", "kind", "images_per_s", "gib"), MEASURED)
def test_beside_what_was_measured(variant: str, batch: int, kind: str, images_per_s: float, gib: float) -> None:
    recipe = published(variant, batch)
    given = Assumptions(**usual(recipe) | {"cores_per_gpu": 100})
    epoch = plan_epoch(recipe, Nodes(nodes=1, gpus=1, gpu=GPUS[kind]), given)
    steps_s = epoch.computing_s + epoch.launching_s
    assert epoch.images / steps_s == pytest.approx(images_per_s, rel=0.15)
    assert memory_bytes(recipe) == pytest.approx(gib * 2**30, rel=0.03)
