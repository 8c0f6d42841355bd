"""Small search spaces, and what a test needs to look at all of one."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from dvt.config import AugmentConfig, DataConfig, OptimizerConfig, Recipe, TrainConfig
from dvt.search import Space, space_from_dict

NOWHERE = Path("nowhere")

BASE: dict[str, Any] = {
    "name": "tiny",
    "data": {"source": "embedded", "augment": {"mixup": 0, "cutmix": 0}},
    "optimizer": {"warmup_epochs": 1},
    "cascade": {"image_size": 28, "in_chans": 1, "num_classes": 10, "embed_dim": 16, "depth": 2, "num_heads": 2},
}
CASCADE: dict[str, Any] = {
    "num_exits": [1, 2, 3],
    "token_grids": [2, 3, 5, 7],
    "feature_reuse_depth": [0, 2],
    "relation_reuse_depth": [0, 1],
    "relation_upstream_depth": [1, 2],
    "feature_reuse_dim": [8, 16],
}
BUDGETS = {"min_macs": 1e5, "max_macs": 1e7}


def tree(cascade: dict[str, Any] | None = None, **sections: Any) -> dict[str, Any]:
    """The file of a small space, with other choices and sections put over it; None takes one out."""
    fields = {"name": "tiny", "base": BASE, "cascade": CASCADE | (cascade or {}), "budgets": BUDGETS} | sections
    return {name: value for name, value in fields.items() if value is not None}


def space(cascade: dict[str, Any] | None = None, **sections: Any) -> Space:
    return space_from_dict(tree(cascade, **sections), NOWHERE)


def supernet_space(drop_path: float = 0.2, **sections: Any) -> Space:
    """A space whose shared weights train in a second, on `tests.unit.train.tiny.make_data`.

    Args:
        drop_path: Above 0, so that a step draws random numbers.
        sections: Other sections of its file.
    """
    cascade = {
        "image_size": 16,
        "in_chans": 1,
        "num_classes": 10,
        "embed_dim": 16,
        "depth": 2,
        "num_heads": 2,
        "feature_reuse_hidden_dim": 8,
        "drop_path": drop_path,
        "stages": [{"token_grid": 2}],
    }
    choices = {"num_exits": [1, 2], "token_grids": [2, 4], "feature_reuse_dim": [4, 8], "relation_reuse_depth": [0, 1]}
    return space(choices, base=BASE | {"cascade": cascade}, budgets={"min_macs": 5e4, "max_macs": 1e6}, **sections)


def supernet_recipe(of: Space, **train: Any) -> Recipe:
    """How they are trained."""
    augment = AugmentConfig(mixup=0, cutmix=0)
    settings = {"micro_batch_size": 6, "grad_accum_steps": 2, "ema_decay": 0.9, "log_every_steps": 1}
    return replace(
        of.base,
        data=DataConfig(source="embedded", loader_workers=0, eval_batch_size=8, augment=augment),
        optimizer=OptimizerConfig(lr=2e-3, epochs=3, warmup_epochs=0.5, cooldown_epochs=0),
        train=TrainConfig(**settings | train),
    )
