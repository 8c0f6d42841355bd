import math
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dvt.config import CascadeConfig, StageConfig
from dvt.exits import Confidence, exit_indices, max_probability
from dvt.inference import EarlyExit
from dvt.models import Cascade, StageOutput

CONFIG = CascadeConfig(
    image_size=16,
    in_chans=1,
    num_classes=4,
    embed_dim=16,
    depth=2,
    num_heads=2,
    mlp_ratio=2,
    stages=(StageConfig(token_grid=2), StageConfig(token_grid=3), StageConfig(token_grid=4)),
)


class CountingCascade(Cascade):
    """Notes how many images each stage was run on."""

    def __init__(self, config: CascadeConfig) -> None:
        super().__init__(config)
        self.runs: list[tuple[int, int]] = []

    def stage(self, stage_index: int, images: Tensor, upstream: StageOutput | None = None) -> StageOutput:
        self.runs.append((stage_index, len(images)))
        return super().stage(stage_index, images, upstream)


def make_cascade() -> CountingCascade:
    generator = torch.Generator().manual_seed(3)
    cascade = CountingCascade(CONFIG)
    with torch.no_grad():
        for parameter in cascade.parameters():  # far from uniform predictions, so that confidences differ
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.4)
    return cascade.eval()


CASCADE = make_cascade()
IMAGES = torch.randn(24, 1, 16, 16, generator=torch.Generator().manual_seed(4))
with torch.no_grad():
    LOGITS = CASCADE(IMAGES)
CONFIDENCE = max_probability(LOGITS)
THRESHOLD = st.one_of(st.sampled_from([-math.inf, math.inf]), st.floats(0.2, 1.0))


def check(thresholds: tuple[float, ...], chosen: list[int]) -> None:
    """Leaving early for real gives what leaving early simulated on `Cascade.forward` gives."""
    result = EarlyExit(CASCADE, thresholds)(IMAGES[chosen])
    exits = torch.from_numpy(exit_indices(CONFIDENCE[:, chosen].numpy(), thresholds))
    expected = LOGITS[exits, torch.tensor(chosen)]
    torch.testing.assert_close(result.logits, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(result.confidence, CONFIDENCE[exits, torch.tensor(chosen)], rtol=1e-5, atol=1e-5)
    assert result.exit_index.tolist() == exits.tolist()
    assert result.label.tolist() == expected.argmax(-1).tolist()


@settings(deadline=None, max_examples=60)
@given(
    thresholds=st.tuples(THRESHOLD, THRESHOLD),
    chosen=st.lists(st.integers(0, len(IMAGES) - 1), min_size=1, max_size=30),
)
def test_it_gives_what_simulating_on_forward_gives(thresholds: tuple[float, float], chosen: list[int]) -> None:
    near = min(abs(CONFIDENCE[k, chosen] - thresholds[k]).min().item() for k in range(2))
    if near > 1e-5:  # at a threshold itself, rounding decides
        check((*thresholds, -math.inf), chosen)


@pytest.mark.parametrize(("first", "second"), list(product((-math.inf, math.inf), repeat=2)))
def test_all_or_none_leave(first: float, second: float) -> None:
    check((first, second, -math.inf), list(range(len(IMAGES))))


def test_a_stage_sees_only_the_images_that_are_left() -> None:
    first = CONFIDENCE[0].sort().values[9:11].mean().item()  # between the 10th and the 11th: 10 go on
    CASCADE.runs.clear()
    result = EarlyExit(CASCADE, (first, -math.inf, -math.inf))(IMAGES)
    assert CASCADE.runs == [(0, 24), (1, 10)]
    assert result.exit_index.bincount().tolist() == [14, 10]


def test_no_images_run_no_stage() -> None:
    CASCADE.runs.clear()
    result = EarlyExit(CASCADE, (0.5, 0.5, -math.inf))(IMAGES[:0])
    assert CASCADE.runs == []
    assert result.logits.shape == (0, 4)
    assert result.exit_index.shape == result.label.shape == result.confidence.shape == (0,)


def test_images_without_a_number_go_to_the_last_exit() -> None:
    images = IMAGES[:3].clone()
    images[1, 0, 5, 5] = math.nan
    result = EarlyExit(CASCADE, (0.0, 0.0, -math.inf))(images)
    assert result.exit_index.tolist() == [0, 2, 0]
    assert result.logits[1].isnan().all()
    assert result.confidence[1].isnan()


def test_a_training_model_is_put_into_evaluation() -> None:
    CASCADE.train()
    EarlyExit(CASCADE, (0.5, 0.5, -math.inf))
    assert not CASCADE.training


@pytest.mark.parametrize(
    ("thresholds", "sentence"),
    [
        ((0.5, -math.inf), "thresholds must hold one number for each of 3 exits, got 2"),
        ((math.nan, 0.5, -math.inf), "thresholds must be numbers or infinite, got nan, 0.5, -inf"),
        (
            (0.5, 0.5, 0.1),
            "thresholds must end with -inf, because the last exit takes what is left, got 0.1",
        ),
    ],
)
def test_bad_thresholds_are_told(thresholds: tuple[float, ...], sentence: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the text is checked below
        EarlyExit(CASCADE, thresholds)
    assert str(caught.value) == sentence


def test_another_confidence_is_what_thresholds_are_compared_with() -> None:
    by = Confidence("margin", (0.5, 2.0, 1.0))
    sure = torch.stack([by(logits, index) for index, logits in enumerate(LOGITS)])
    thresholds = (float(sure[0].sort().values[11:13].mean()), float(sure[1].sort().values[11:13].mean()), -math.inf)
    result = EarlyExit(CASCADE, thresholds, by)(IMAGES)
    exits = exit_indices(sure.numpy(), thresholds)
    assert result.exit_index.tolist() == exits.tolist()
    torch.testing.assert_close(result.confidence, sure[exits, torch.arange(len(IMAGES))], rtol=1e-4, atol=1e-5)


def test_temperatures_of_another_number_of_exits() -> None:
    with pytest.raises(ValueError, match=r"^temperatures must be one for each of 3 exits, got 1$"):
        EarlyExit(CASCADE, (0.5, 0.5, -math.inf), Confidence("margin", (2.0,)))
