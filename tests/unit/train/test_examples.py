"""Example images: evenly over classes, and what every exit says of them."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from dvt.config import CascadeConfig, StageConfig
from dvt.data import Batch, DataSets
from dvt.exits import PLAIN
from dvt.models import Cascade
from dvt.train.examples import NUM_EXAMPLES, evenly_over_classes, look_at_examples

CONFIG = CascadeConfig(
    image_size=16,
    in_chans=1,
    num_classes=3,
    embed_dim=16,
    depth=1,
    num_heads=2,
    stages=(StageConfig(token_grid=2), StageConfig(token_grid=4)),
)


@dataclass
class _Images:
    """A set whose images are told by their first pixel."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, indices: list[int], *, epoch: int = 0, seed: int = 0) -> Batch:
        return Batch(self.images[list(indices)], self.labels[list(indices)])

    def fingerprint(self) -> str:
        return ""


def data_of(count: int) -> DataSets:
    generator = torch.Generator().manual_seed(0)
    images = _Images(torch.rand(count, 1, 16, 16, generator=generator), torch.arange(count) % 3)
    return DataSets(images, images, images, ("ant", "bee", "cat"), (0.5,), (0.25,))


def test_classes_take_turns() -> None:
    assert evenly_over_classes([7, 7, 7, 1, 7, 1, 2], 5) == [0, 3, 6, 1, 5]
    assert evenly_over_classes([7, 7], 5) == [0, 1]


@pytest.mark.parametrize(("count", "kept"), [(90, NUM_EXAMPLES), (7, 7)])
def test_every_exit_looks_at_each_image(count: int, kept: int) -> None:
    torch.manual_seed(0)
    model, data = Cascade(CONFIG).eval(), data_of(count)
    examples = look_at_examples(model, data, torch.device("cpu"), PLAIN)
    assert examples.images.shape == (kept, 1, 16, 16)
    with torch.inference_mode():
        probs = model(torch.from_numpy(examples.images)).softmax(-1)  # (2, n, 3)
    np.testing.assert_allclose(examples.confidence, probs.amax(-1).numpy(), rtol=1e-5)
    assert [row[1] for row in examples.predicted] == [data.class_names[index] for index in probs[1].argmax(-1).tolist()]
    assert max(map(examples.labels.count, data.class_names)) - min(map(examples.labels.count, data.class_names)) <= 1
    first = {
        round(float(image[0, 0, 0]), 6): label for image, label in zip(data.test.images, data.test.labels, strict=True)
    }  # type: ignore[attr-defined]
    told = [data.class_names[int(first[round(float(image[0, 0, 0]), 6)])] for image in examples.images]
    assert tuple(told) == examples.labels
