"""Rows of image files: what the engine says of them, failures in their place."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dvt.data.image_files import FoundFile
from dvt.data.transforms import inference_transform, read_image
from dvt.exits import PLAIN, Confidence
from dvt.inference import EarlyExit
from dvt.models import macs_per_exit
from dvt.serving.prediction import PREDICTIONS, Classifier, Prediction, predictions_table
from tests.unit.data.images import write_image
from tests.unit.tracking.tiny import CASCADE, CLASS_NAMES, MEAN, STD, make_tiny

THRESHOLDS = (0.26, float("-inf"))
TRANSFORM = inference_transform(16, 0.875, "bicubic", (MEAN,), (STD,))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    cascade = make_tiny(tmp_path_factory.mktemp("tiny")).cascade
    return Classifier(cascade, THRESHOLDS, PLAIN, CLASS_NAMES, TRANSFORM)


@pytest.mark.parametrize("batch_size", [2, 64])
def test_rows_are_what_the_engine_says(classifier: Classifier, tmp_path: Path, batch_size: int) -> None:
    paths = [write_image(tmp_path / f"{index}.png", index) for index in range(6)]
    found = [FoundFile(str(path)) for path in paths]
    found[2] = FoundFile("in a shard", content=paths[2].read_bytes())
    found[4] = FoundFile("broken", content=b"no image")
    result = EarlyExit(classifier.cascade, THRESHOLDS)(torch.stack([TRANSFORM(read_image(p, 1)) for p in paths]))
    assert len(set(result.exit_index.tolist())) == 2, "images must leave at both exits for this to tell anything"

    batches = list(classifier.classify(classifier.engine(torch.device("cpu")), found, batch_size))
    assert [len(batch) for batch in batches] == ([2, 2, 2] if batch_size == 2 else [6])
    rows = [row for batch in batches for row in batch]
    assert [row.image for row in rows] == [file.address for file in found]
    assert rows.pop(4) == Prediction("broken", error="it is not an image")
    for row, index in zip(rows, (0, 1, 2, 3, 5), strict=True):
        label, exit_index = int(result.label[index]), int(result.exit_index[index])
        assert (row.label, row.class_name, row.exit_index) == (label, CLASS_NAMES[label], exit_index + 1)
        assert row.confidence == pytest.approx(float(result.confidence[index]), rel=1e-4)
        assert row.prob == pytest.approx(float(result.logits[index].softmax(-1)[label]), rel=1e-4)
        assert row.macs == macs_per_exit(CASCADE)[exit_index]


def test_the_probability_is_not_the_confidence_of_another_measure(classifier: Classifier, tmp_path: Path) -> None:
    margin = replace(classifier, confidence=Confidence("margin"))
    found = [FoundFile(str(write_image(tmp_path / "0.png")))]
    ((row,),) = margin.classify(margin.engine(torch.device("cpu")), found, 1)
    assert row.prob is not None
    assert row.confidence is not None
    assert row.prob > row.confidence


def test_a_digest_tells_models_apart(classifier: Classifier) -> None:
    same = replace(classifier, thresholds=(0.5, float("-inf")))
    assert same.digest() == classifier.digest()
    others = [
        replace(classifier, class_names=("ant", "bee", "cat", "dog", "fly")),
        replace(classifier, transform=inference_transform(16, 1.0, "bicubic", (MEAN,), (STD,))),
    ]
    digests = {classifier.digest(), *(other.digest() for other in others)}
    with torch.no_grad():
        weight = next(classifier.cascade.parameters())
        weight.view(-1)[0] += 1e-3
        digests.add(classifier.digest())
        weight.view(-1)[0] -= 1e-3
    assert len(digests) == 4


def test_names_that_are_no_text_are_told() -> None:
    table = predictions_table([Prediction("a\udcff.png", error="it is damaged"), Prediction("b.png", 1, "bee")])
    assert table.schema == PREDICTIONS
    assert table["image"].to_pylist() == ["a\\udcff.png", "b.png"]
    assert table["label"].to_pylist() == [None, 1]
