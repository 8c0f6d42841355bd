"""Small search spaces, and what a test needs to look at all of one."""

from pathlib import Path
from typing import Any

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
