"""Scores of calibration and test images: the same in shards, and the model as it was before."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from dvt.data import DataError
from dvt.exits import Confidence, ExitScores, score_exits
from dvt.models import Cascade
from dvt.train.errors import TrainingError
from dvt.train.evaluate import predict_images, score_images, score_with_labels
from tests.unit.train.tiny import CASCADE, CPU, RECIPE, MemoryImages, change

IMAGES = MemoryImages.noise(21, seed=4)


@pytest.fixture
def model() -> Cascade:
    torch.manual_seed(3)
    return Cascade(CASCADE).train()


def score(model: Cascade, images: MemoryImages = IMAGES, shard: int = 0, num_shards: int = 1) -> ExitScores:
    return score_images(model, images, RECIPE.data, CPU, shard, num_shards)


def test_scores_are_those_of_the_model_at_rest(model: Cascade) -> None:
    scores = score(model)
    with torch.no_grad():
        logits = model.eval()(IMAGES.images)
    np.testing.assert_allclose(scores.confidence, logits.softmax(-1).amax(-1), rtol=1e-5)
    assert np.array_equal(scores.correct, logits.argmax(-1) == IMAGES.labels)


def test_predictions_are_scored_as_images_are(model: Cascade) -> None:
    parts = [predict_images(model, IMAGES, RECIPE.data, CPU, shard, 2) for shard in range(2)]
    logits, labels = torch.cat([each for each, _ in parts], dim=1), torch.cat([each for _, each in parts])
    by = Confidence("negative_entropy", (1.5,) * len(logits))
    scores = ExitScores.join(score_images(model, IMAGES, RECIPE.data, CPU, shard, 2, by) for shard in range(2))
    assert np.array_equal(score_exits(logits, labels, by).confidence, scores.confidence)
    assert logits.dtype == torch.float32
    assert all(module.training for module in model.modules())


def test_dropping_out_is_for_training_only() -> None:
    model = Cascade(change(RECIPE, cascade={"drop_path": 0.9}).cascade).train()
    first, second = score(model), score(model)
    assert np.array_equal(first.confidence, second.confidence)


@pytest.mark.parametrize("num_shards", [2, 3, 5, 21])
def test_shards_joined_are_the_whole(model: Cascade, num_shards: int) -> None:
    joined = ExitScores.join(score(model, shard=shard, num_shards=num_shards) for shard in range(num_shards))
    whole = score(model)
    np.testing.assert_allclose(joined.confidence, whole.confidence, rtol=1e-5)
    assert np.array_equal(joined.correct, whole.correct)


@pytest.mark.parametrize("is_training", [True, False])
def test_the_model_is_left_in_its_mode(model: Cascade, is_training: bool) -> None:
    model.train(is_training)
    score(model)
    assert all(module.training == is_training for module in model.modules())


def test_the_model_is_left_in_its_mode_when_reading_fails_half_way(model: Cascade) -> None:
    with pytest.raises(DataError, match=r"^image 12 cannot be read$"):
        score(model, replace(IMAGES, unreadable=frozenset({12})))
    assert all(module.training for module in model.modules())


def test_a_model_that_has_diverged_is_told_in_a_sentence(model: Cascade) -> None:
    with torch.no_grad():
        model.stages[1].head.bias[3] = torch.nan
    with pytest.raises(TrainingError) as caught:
        score(model)
    assert str(caught.value) == (
        "the model must give finite logits, got others; lower optimizer.lr or set optimizer.clip_grad"
    )
    assert all(module.training for module in model.modules())


def test_nothing_is_kept_for_gradients(model: Cascade) -> None:
    score(model)
    assert all(parameter.grad is None for parameter in model.parameters())
    model(IMAGES.images).sum().backward()  # and the model trains on


def test_labels_come_with_the_scores_of_the_whole_set(model: Cascade) -> None:
    counted: list[int] = []
    scores, labels = score_with_labels(model, IMAGES, RECIPE.data, CPU, on_batch=counted.append)
    assert np.array_equal(scores.confidence, score(model).confidence)
    assert np.array_equal(scores.correct, score(model).correct)
    assert np.array_equal(labels, IMAGES.labels)
    assert sum(counted) == len(IMAGES)
    assert model.training
