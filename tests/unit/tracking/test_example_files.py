"""`examples.json`: images that look as they did, with what exits say of them, in a small file."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dvt.tracking.example_files import MOST_BYTES, write_examples
from dvt.train.examples import Examples


def examples(images: np.ndarray[Any, Any]) -> Examples:
    """Of images in [0, 1], whatever they show."""
    count = len(images)
    return Examples(
        images=((images - 0.5) / 0.25).astype(np.float32),
        mean=(0.5,) * images.shape[1],
        std=(0.25,) * images.shape[1],
        labels=("cat",) * count,
        predicted=(("dog", "cat"),) * count,
        confidence=np.array([[0.1] * count, [0.9] * count], dtype=np.float32),
    )


def rows(path: Path) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = json.loads(path.read_text())["images"]
    return made


def decoded(row: dict[str, Any]) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(row["image"].partition(",")[2])))


def test_an_image_comes_back_as_it_was(tmp_path: Path) -> None:
    pixels = np.zeros((2, 1, 8, 8))
    pixels[1, 0, 2:5, 3] = 1.0
    first, second = rows(write_examples(tmp_path / "front", examples(pixels)))
    assert first["image"].startswith("data:image/png;base64,")
    np.testing.assert_array_equal(np.asarray(decoded(second)), (255 * pixels[1, 0]).astype(np.uint8))
    assert (second["label"], second["predicted"]) == ("cat", ["dog", "cat"])
    assert second["confidence"] == [float(np.float32(0.1)), float(np.float32(0.9))]  # as thresholds are compared


@pytest.mark.parametrize("side", [96, 224])
def test_large_images_fit_into_the_file(tmp_path: Path, side: int) -> None:
    noise = np.random.default_rng(0).random((60, 3, side, side))  # nothing is harder to compress
    path = write_examples(tmp_path, examples(noise))
    kept = rows(path)
    assert 20 < len(kept) < 60
    assert path.stat().st_size <= MOST_BYTES
    assert {decoded(row).size for row in kept} == {(96, 96)}
    assert kept[0]["image"].startswith("data:image/jpeg;base64,")
