"""A run as `dvt train` leaves it, without having trained: for the tests of commands that go on from one."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from dvt.config import CascadeConfig, DataConfig, Recipe, RunConfig, StageConfig, recipe_to_yaml
from dvt.tracking import RunRecord, check_tracking, open_run
from dvt.train.checkpoint import save_checkpoint
from dvt.train.state import TrainingState

CASCADE = CascadeConfig(
    image_size=16,
    in_chans=1,
    num_classes=10,
    embed_dim=16,
    depth=1,
    num_heads=2,
    stages=(StageConfig(token_grid=2), StageConfig(token_grid=4)),
)


@dataclass(frozen=True)
class Trained:
    """A run and where it is."""

    root: Path
    checkpoint: Path
    record: RunRecord
    uri: str


def make_trained(storage: Path, config: CascadeConfig = CASCADE, name: str = "tiny-001") -> Trained:
    """A run folder below `storage`, with the best of its checkpoints, and its MLflow run."""
    uri = f"sqlite:///{storage / 'mlflow.db'}"
    check_tracking(uri)
    data = DataConfig(source="embedded", calibration_images=60, test_images=80, loader_workers=0)
    recipe = Recipe(name="tiny", cascade=config, data=data, run=RunConfig(storage_path=str(storage)))
    record = open_run(recipe, tracking_uri=uri, run_name=name)
    root = storage / name
    checkpoint = root / "checkpoints" / "best"
    state = TrainingState.create(recipe, steps_per_epoch=1, device=torch.device("cpu"))
    save_checkpoint(checkpoint, state, recipe)
    (root / "recipe.yaml").write_text(recipe_to_yaml(recipe))
    (root / "run.json").write_text(record.to_json())
    listed = {"checkpoint_results": [{"checkpoint_dir_name": "best", "metrics": {"calibration/top1_mean": 0.1}}]}
    (root / "checkpoints" / "checkpoint_manager_snapshot.json").write_text(json.dumps(listed))
    return Trained(root, checkpoint, record, uri)
