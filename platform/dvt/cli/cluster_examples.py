"""The example images of a trained cascade, from a node of the cluster: the driver's machine may not have the images."""

from typing import Any

import torch
from ray.train import Checkpoint

from dvt.config import Recipe, recipe_from_dict, to_dict
from dvt.data import open_data
from dvt.exits import Confidence
from dvt.train.checkpoint import load_model
from dvt.train.examples import Examples, look_at_examples
from dvt.train.ray_checkpoint import local_copy
from dvt.train.ray_train import on_cluster


def examples_on_cluster(recipe: Recipe, checkpoint: Checkpoint, confidence: Confidence) -> Examples:
    """Test images, and what each exit of a checkpoint says of them.

    Args:
        recipe: The run's.
        checkpoint: The model.
        confidence: The measure that the thresholds are of.

    Raises:
        CheckpointError: If the checkpoint cannot be read.
        DataError: If an image cannot be read.
    """
    return on_cluster(recipe, 1, _look, to_dict(recipe), checkpoint, confidence)[0]


def _look(tree: dict[str, Any], checkpoint: Checkpoint, confidence: Confidence, *shards: int) -> Examples:
    recipe = recipe_from_dict(tree)
    device = torch.device("cuda" if recipe.cluster.use_gpu else "cpu")
    with local_copy(checkpoint) as folder:
        model = load_model(folder).to(device).eval()
    return look_at_examples(model, open_data(recipe.data, recipe.cascade), device, confidence)
