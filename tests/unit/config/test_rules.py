"""Every rule of every configuration dataclass, with the exact sentence a person reads."""

from dataclasses import fields
from typing import Any

import pytest

from dvt.config import (
    AugmentConfig,
    CascadeConfig,
    ClusterConfig,
    ConfigError,
    DataConfig,
    ExitsConfig,
    LossConfig,
    OptimizerConfig,
    Recipe,
    StageConfig,
    StageReuse,
    TrainConfig,
)

GRIDS = (StageConfig(token_grid=7), StageConfig(token_grid=10))


def stages(**second: Any) -> tuple[StageConfig, StageConfig]:
    return (StageConfig(token_grid=7), StageConfig(token_grid=10, **second))


def first(**reuse: Any) -> tuple[StageConfig, StageConfig]:
    return (StageConfig(token_grid=7, **reuse), StageConfig(token_grid=10))


BROKEN: list[tuple[type, dict[str, Any], str]] = [
    (StageConfig, {"token_grid": 0}, "token_grid must be at least 1, got 0"),
    (StageConfig, {"feature_reuse_depth": -1}, "feature_reuse_depth must be at least 0, got -1"),
    (StageConfig, {"relation_reuse_depth": -2}, "relation_reuse_depth must be at least 0, got -2"),
    (StageConfig, {"relation_upstream_depth": -3}, "relation_upstream_depth must be at least 0, got -3"),
    (CascadeConfig, {"num_classes": 0}, "num_classes must be at least 1, got 0"),
    (CascadeConfig, {"embed_dim": 0}, "embed_dim must be at least 1, got 0"),
    (CascadeConfig, {"depth": 0}, "depth must be at least 1, got 0"),
    (CascadeConfig, {"num_heads": 0}, "num_heads must be at least 1, got 0"),
    (CascadeConfig, {"num_heads": 5}, "num_heads must divide embed_dim 384, got 5"),
    (
        CascadeConfig,
        {"family": "t2t_vit", "embed_dim": 15, "num_heads": 3},
        "embed_dim must be even for family t2t_vit, got 15",
    ),
    (CascadeConfig, {"feature_reuse_dim": 0}, "feature_reuse_dim must be at least 1, got 0"),
    (CascadeConfig, {"feature_reuse_hidden_dim": 0}, "feature_reuse_hidden_dim must be at least 1, got 0"),
    (CascadeConfig, {"mlp_ratio": 0.0}, "mlp_ratio must be greater than 0, got 0"),
    (CascadeConfig, {"layer_scale": 0.0}, "layer_scale must be greater than 0, got 0"),
    (CascadeConfig, {"num_registers": -1}, "num_registers must be at least 0, got -1"),
    *(
        (CascadeConfig, {"family": "t2t_vit", name: value}, f"{name} must be {rule}")
        for name, value, rule in (
            ("layer_scale", 1e-5, "null for family t2t_vit, got 1e-05"),
            ("num_registers", 4, "0 for family t2t_vit, got 4"),
            ("qk_norm", True, "false for family t2t_vit, got true"),
            ("global_pool", "avg", "'token' for family t2t_vit, got 'avg'"),
            ("class_pos_embed", False, "true for family t2t_vit, got false"),
        )
    ),
    (CascadeConfig, {"norm_eps": -1e-6}, "norm_eps must be greater than 0, got -1e-06"),
    (CascadeConfig, {"relation_reuse_ratio": 0.0}, "relation_reuse_ratio must be greater than 0, got 0"),
    (CascadeConfig, {"drop_path": -0.1}, "drop_path must be from 0 to 0.99, got -0.1"),
    (CascadeConfig, {"drop_path": 0.995}, "drop_path must be from 0 to 0.99, got 0.995"),
    (CascadeConfig, {"stages": ()}, "stages must hold at least one stage, got none"),
    (
        CascadeConfig,
        {"stages": (GRIDS[1], GRIDS[0])},
        "stages must have strictly increasing token_grid, got 10, 7",
    ),
    (
        CascadeConfig,
        {"stages": (GRIDS[0], GRIDS[0])},
        "stages must have strictly increasing token_grid, got 7, 7",
    ),
    (
        CascadeConfig,
        {"image_size": 9, "stages": GRIDS},
        "stages.1.token_grid must be at most 9 for family vit and image_size 9, got 10",
    ),
    (
        CascadeConfig,
        {"family": "t2t_vit", "image_size": 39, "stages": GRIDS},
        "stages.1.token_grid must be at most 9 for family t2t_vit and image_size 39, got 10",
    ),
    *(
        (
            CascadeConfig,
            {"stages": first(**{name: 1})},
            f"stages.0.{name} must be at most 0 for the first stage, which has nothing to reuse, got 1",
        )
        for name in ("feature_reuse_depth", "relation_reuse_depth", "relation_upstream_depth")
    ),
    *(
        (
            CascadeConfig,
            {"depth": 3, "stages": stages(**{name: 4})},
            f"stages.1.{name} must be at most 3 for depth 3, got 4",
        )
        for name in ("feature_reuse_depth", "relation_reuse_depth", "relation_upstream_depth")
    ),
    *(
        (
            AugmentConfig,
            {"crop_scale": pair},
            f"crop_scale must be two rising shares above 0 and at most 1, got {pair[0]:g}, {pair[1]:g}",
        )
        for pair in ((0.0, 1.0), (0.5, 0.4), (0.5, 1.1))
    ),
    *(
        (AugmentConfig, {name: value}, f"{name} must be from 0 to 1, got {value}")
        for name in ("hflip", "random_erasing", "mix_prob", "switch_prob")
        for value in (-0.1, 1.1)
    ),
    (AugmentConfig, {"crop_padding": 0.6}, "crop_padding must be from 0 to 0.5, got 0.6"),
    (AugmentConfig, {"mixup": -0.8}, "mixup must be at least 0, got -0.8"),
    (AugmentConfig, {"cutmix": -1.0}, "cutmix must be at least 0, got -1"),
    *(
        (DataConfig, {name: 0}, f"{name} must be at least 1, got 0")
        for name in (
            *("calibration_images", "train_images", "test_images"),
            *("shuffle_window", "shuffle_run", "eval_batch_size"),
        )
    ),
    *((DataConfig, {name: -1}, f"{name} must be at least 0, got -1") for name in ("seed", "loader_workers")),
    (DataConfig, {"cache_gib": 0.5}, "cache_gib must be at least 1, got 0.5"),
    (
        DataConfig,
        {"engine": "ray", "loader_workers": 0},
        "loader_workers must be at least 1, the tasks that read for each worker, for engine ray, got 0",
    ),
    (DataConfig, {"crop_pct": 1.2}, "crop_pct must be from 0.1 to 1, got 1.2"),
    (DataConfig, {"crop_pct": 0.05}, "crop_pct must be from 0.1 to 1, got 0.05"),
    (OptimizerConfig, {"epochs": 0, "warmup_epochs": 0}, "epochs must be at least 1, got 0"),
    *(
        (OptimizerConfig, {name: -1}, f"{name} must be at least 0, got -1")
        for name in ("weight_decay", "warmup_epochs", "cooldown_epochs", "warmup_lr", "min_lr")
    ),
    (OptimizerConfig, {"lr": 0.0, "min_lr": 0.0, "warmup_lr": 0.0}, "lr must be greater than 0, got 0"),
    (OptimizerConfig, {"lr": 1e-6}, "min_lr must be at most lr 1e-06, got 1e-05"),
    (OptimizerConfig, {"lr": 1e-3, "warmup_lr": 2e-3}, "warmup_lr must be at most lr 0.001, got 0.002"),
    (OptimizerConfig, {"clip_grad": 0.0}, "clip_grad must be greater than 0, got 0"),
    (OptimizerConfig, {"epochs": 5}, "warmup_epochs must be at most epochs 5, got 20"),
    (LossConfig, {"exit_weights": (1.0, -2.0)}, "exit_weights.1 must be at least 0, got -2"),
    (LossConfig, {"label_smoothing": 1.0}, "label_smoothing must be from 0 to 0.99, got 1"),
    (LossConfig, {"distill_weight": -1.0}, "distill_weight must be at least 0, got -1"),
    (LossConfig, {"distill_temperature": 0.0}, "distill_temperature must be greater than 0, got 0"),
    *(
        (TrainConfig, {name: 0}, f"{name} must be at least 1, got 0")
        for name in ("micro_batch_size", "grad_accum_steps", "log_every_steps")
    ),
    (TrainConfig, {"checkpoint_every_steps": 0}, "checkpoint_every_steps must be at least 1, got 0"),
    *((TrainConfig, {name: -1}, f"{name} must be at least 0, got -1") for name in ("seed", "backbone_epochs")),
    (TrainConfig, {"ema_decay": 1.00001}, "ema_decay must be from 0 to 1, got 1.00001"),
    (ClusterConfig, {"num_workers": 0}, "num_workers must be at least 1, got 0"),
    (ClusterConfig, {"num_workers": (0, 2)}, "num_workers.0 must be at least 1, got 0"),
    (ClusterConfig, {"num_workers": (2, 2)}, "num_workers.1 must be greater than the least 2, got 2"),
    (ClusterConfig, {"straggler_factor": 1.0}, "straggler_factor must be greater than 1, got 1"),
    (ClusterConfig, {"straggler_logs": 0}, "straggler_logs must be at least 1, got 0"),
    (TrainConfig, {"max_skipped_steps": -1}, "max_skipped_steps must be at least 0, got -1"),
    (
        Recipe,
        {"cluster": ClusterConfig(num_workers=(3, 8)), "data": DataConfig(root="x")},
        (
            "cluster.num_workers.0 must divide the 8 micro-batches of a step (train.grad_accum_steps 1 of 8 workers), "
            "got 3; choose from 1, 2, 4, 8"
        ),
    ),
    (ClusterConfig, {"cpus_per_worker": 0.0}, "cpus_per_worker must be greater than 0, got 0"),
    (ClusterConfig, {"max_failures": -1}, "max_failures must be at least 0, got -1"),
    (ExitsConfig, {"tolerated_loss": -0.1}, "tolerated_loss must be from 0 to 1, got -0.1"),
    (ExitsConfig, {"guarantee_level": 1.0}, "guarantee_level must be greater than 0 and less than 1, got 1"),
    (ExitsConfig, {"budgets_macs": (1e9, 0.0)}, "budgets_macs.1 must be greater than 0, got 0"),
    (Recipe, {"name": ""}, "name must be letters, digits, - and _ only, got ''"),
    (Recipe, {"name": "a b"}, "name must be letters, digits, - and _ only, got 'a b'"),
    (
        Recipe,
        {"loss": LossConfig(exit_weights=(1.0, 2.0))},
        "loss.exit_weights must hold one weight for each of the 3 stages, got 2",
    ),
    *(
        (
            Recipe,
            {"data": DataConfig(root="x", **{name: 3}), "cluster": ClusterConfig(num_workers=4)},
            f"data.{name} must be at least cluster.num_workers 4, got 3",
        )
        for name in ("calibration_images", "test_images")
    ),
    (
        Recipe,
        {
            "train": TrainConfig(backbone_epochs=7),
            "optimizer": OptimizerConfig(epochs=5, warmup_epochs=0, cooldown_epochs=2),
        },
        "train.backbone_epochs must be less than the 7 epochs of optimizer, got 7",
    ),
    (
        Recipe,
        {"data": DataConfig()},
        "data.root must name an image folder for source folder, got null; add --data.root FOLDER",
    ),
    (
        Recipe,
        {"data": DataConfig(source="cifar100"), "cascade": CascadeConfig(num_classes=100)},
        "data.root must name a folder or archive for source cifar100, got null; add --data.root FOLDER",
    ),
    (
        Recipe,
        {"data": DataConfig(source="cifar10", root="x")},
        "cascade.num_classes must be 10 for data.source cifar10, got 1000",
    ),
    (
        Recipe,
        {"data": DataConfig(source="embedded"), "cascade": CascadeConfig(num_classes=10)},
        "cascade.in_chans must be 1 for data.source embedded, got 3",
    ),
    (
        Recipe,
        {"data": DataConfig(source="embedded"), "cascade": CascadeConfig(in_chans=1, num_classes=7)},
        "cascade.num_classes must be 10 for data.source embedded, got 7",
    ),
    *(
        (
            Recipe,
            {
                "train": TrainConfig(micro_batch_size=3),
                "data": DataConfig(root="x", augment=AugmentConfig(mixup=mixup, cutmix=1 - mixup)),
            },
            "train.micro_batch_size must be even while mixup or cutmix is on, got 3",
        )
        for mixup in (0.0, 1.0)
    ),
]
NEEDED: dict[type, dict[str, Any]] = {
    StageConfig: {"token_grid": 7},
    Recipe: {"name": "a", "data": DataConfig(root="x")},
}


@pytest.mark.parametrize(("cls", "values", "sentence"), BROKEN, ids=[row[2] for row in BROKEN])
def test_a_broken_rule_is_told(cls: type, values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        cls(**NEEDED.get(cls, {}) | values)
    assert str(caught.value) == sentence


def test_all_broken_rules_of_a_section_are_told_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        CascadeConfig(depth=0, embed_dim=10, num_heads=3, drop_path=2, stages=GRIDS[::-1])
    assert str(caught.value).splitlines() == [
        "depth must be at least 1, got 0",
        "drop_path must be from 0 to 0.99, got 2",
        "num_heads must divide embed_dim 10, got 3",
        "stages must have strictly increasing token_grid, got 10, 7",
    ]
    assert [problem.path for problem in caught.value.problems] == ["depth", "drop_path", "num_heads", "stages"]


def test_an_odd_micro_batch_is_fine_without_mixing() -> None:
    augment = AugmentConfig(mixup=0, cutmix=0)
    Recipe(name="a", data=DataConfig(root="x", augment=augment), train=TrainConfig(micro_batch_size=3))


def test_the_bounds_themselves_are_allowed() -> None:
    StageConfig(token_grid=1, feature_reuse_depth=0)
    CascadeConfig(image_size=14, drop_path=0.99, depth=3, stages=stages(feature_reuse_depth=3))
    CascadeConfig(image_size=40, family="t2t_vit", stages=GRIDS)
    OptimizerConfig(epochs=1, warmup_epochs=1, cooldown_epochs=0, min_lr=0, weight_decay=0, clip_grad=None)
    TrainConfig(ema_decay=1)


def test_every_option_that_t2t_vit_does_not_have_is_told() -> None:
    with pytest.raises(ConfigError) as caught:
        CascadeConfig(family="t2t_vit", layer_scale=1.0, num_registers=2, qk_norm=True, class_pos_embed=False)
    assert [problem.path for problem in caught.value.problems] == [
        "layer_scale",
        "num_registers",
        "qk_norm",
        "class_pos_embed",
    ]


def test_cascades_know_their_exits_and_grids() -> None:
    assert CascadeConfig().num_prefix_tokens == 1
    assert CascadeConfig(num_registers=4).num_prefix_tokens == 5
    assert CascadeConfig().num_exits == 3
    assert CascadeConfig().token_grids == (7, 10, 14)


def test_reuse_depths_are_resolved_to_blocks() -> None:
    config = CascadeConfig(
        depth=4,
        stages=(
            StageConfig(token_grid=2),
            StageConfig(token_grid=3),
            StageConfig(token_grid=4, feature_reuse_depth=1, relation_reuse_depth=2, relation_upstream_depth=3),
            StageConfig(token_grid=5, relation_reuse_depth=0, relation_upstream_depth=3),
            StageConfig(token_grid=6, relation_reuse_depth=2, relation_upstream_depth=0),
        ),
    )
    assert [config.reuse(index) for index in range(5)] == [
        StageReuse(),
        StageReuse(feature_depth=4, relation_depth=4, relation_upstream_depth=4),
        StageReuse(feature_depth=1, relation_depth=2, relation_upstream_depth=3),
        StageReuse(feature_depth=4),  # one without the other reuses nothing
        StageReuse(feature_depth=4),
    ]


def test_total_epochs_include_the_cool_down() -> None:
    assert OptimizerConfig(epochs=300, cooldown_epochs=10).total_epochs == 310


@pytest.mark.parametrize("cls", [CascadeConfig, Recipe, StageConfig], ids=lambda cls: cls.__name__)
def test_configurations_are_frozen_and_keyword_only(cls: type) -> None:
    config = cls(**NEEDED.get(cls, {}))
    with pytest.raises(AttributeError):
        setattr(config, fields(cls)[0].name, 3)
    with pytest.raises(TypeError):
        cls("a")
